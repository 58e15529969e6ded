import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, DistilBertConfig, DistilBertForMaskedLM

from distilray.errors import InputError
from distilray.models.masked_lm import count_parameters, encode, load_masked_lm
from distilray.models.student import create_student, evenly_spaced_layers, summarize_origins

POSITIONS = "distilbert.embeddings.position_embeddings.weight"


@pytest.fixture(scope="module")
def teacher(teacher_dir):
    return load_masked_lm(teacher_dir)


def expected_state(teacher, layers, *, fold):
    """Return the expected student tensors, from the attributes of the teacher."""
    bert, head = teacher.bert, teacher.cls.predictions
    embeddings = bert.embeddings
    positions = embeddings.position_embeddings.weight
    state = {
        "distilbert.embeddings.word_embeddings.weight": embeddings.word_embeddings.weight,
        POSITIONS: positions + embeddings.token_type_embeddings.weight[0] if fold else positions,
        "distilbert.embeddings.LayerNorm.weight": embeddings.LayerNorm.weight,
        "distilbert.embeddings.LayerNorm.bias": embeddings.LayerNorm.bias,
        "vocab_projector.weight": head.decoder.weight,
        "vocab_projector.bias": head.decoder.bias,
        "vocab_transform.weight": head.transform.dense.weight,
        "vocab_transform.bias": head.transform.dense.bias,
        "vocab_layer_norm.weight": head.transform.LayerNorm.weight,
        "vocab_layer_norm.bias": head.transform.LayerNorm.bias,
    }
    for index, layer in enumerate(bert.encoder.layer[number] for number in layers):
        modules = {
            "attention.q_lin": layer.attention.self.query,
            "attention.k_lin": layer.attention.self.key,
            "attention.v_lin": layer.attention.self.value,
            "attention.out_lin": layer.attention.output.dense,
            "sa_layer_norm": layer.attention.output.LayerNorm,
            "ffn.lin1": layer.intermediate.dense,
            "ffn.lin2": layer.output.dense,
            "output_layer_norm": layer.output.LayerNorm,
        }
        for name, module in modules.items():
            state[f"distilbert.transformer.layer.{index}.{name}.weight"] = module.weight
            state[f"distilbert.transformer.layer.{index}.{name}.bias"] = module.bias
    return state


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("layers", [None, [1], [3, 0, 2]])
def test_every_tensor_of_the_student_is_its_teacher_tensor(teacher, layers, fold):
    student, source = create_student(teacher, layers=layers, fold_segment_a=fold)
    expected = expected_state(teacher, layers or (0, 3), fold=fold)
    state = student.state_dict()
    assert set(state) == set(expected) == set(source)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert source[POSITIONS].endswith(" + segment A") == fold
    assert student.config.n_layers == len(layers or (0, 3))


def test_a_student_with_random_weights_takes_nothing_but_its_size(teacher):
    student, source = create_student(teacher, random_seed=5)
    taken = create_student(teacher)[0]
    assert set(source.values()) == {"fresh"}
    assert student.config.to_dict() == taken.config.to_dict()
    for name, tensor in student.state_dict().items():
        if tensor.dim() > 1:
            assert not torch.equal(tensor, taken.state_dict()[name]), name


def test_random_weights_follow_from_the_seed_and_leave_other_randomness_alone(teacher):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second, other = (create_student(teacher, random_seed=seed)[0].state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_summary_of_tensors_counts_every_tensor(teacher):
    _, source = create_student(teacher)
    lines = summarize_origins(source)
    assert "distilbert.transformer.layer.1 <- bert.encoder.layer.3 (16 tensors)" in lines
    assert "masked-LM head <- masked-LM head (6 tensors)" in lines
    assert sum(int(line.rpartition("(")[2].split()[0]) for line in lines) == len(source)
    assert summarize_origins(create_student(teacher, random_seed=1)[1])[0].endswith("<- fresh (4 tensors)")


def test_the_student_and_its_teacher_share_no_memory(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, _ = create_student(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_the_decoder_of_the_student_is_its_word_embeddings(teacher):
    student, _ = create_student(teacher)
    words = student.distilbert.embeddings.word_embeddings.weight
    assert student.vocab_projector.weight is words
    assert words.requires_grad


def test_a_student_with_every_layer_is_the_teacher_on_segment_a(teacher):
    student, _ = create_student(teacher, layers=range(4), fold_segment_a=True)
    input_ids = torch.randint(5, 60, (3, 20), generator=torch.Generator().manual_seed(2))
    attention = torch.ones_like(input_ids)
    with torch.no_grad():
        expected = encode(teacher, input_ids, attention, torch.zeros_like(input_ids))
        torch.testing.assert_close(encode(student, input_ids, attention, None), expected, rtol=1e-5, atol=1e-5)
        plain = create_student(teacher, layers=range(4), fold_segment_a=False)[0]
        assert not torch.allclose(encode(plain, input_ids, attention, None), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "expected"),
    [(12, 6, (0, 2, 4, 7, 9, 11)), (6, 3, (0, 2, 5)), (4, 2, (0, 3)), (2, 1, (0,)), (24, 24, tuple(range(24)))],
)
def test_evenly_spaced_layers_include_the_first_and_the_last(teacher_layers, student_layers, expected):
    assert evenly_spaced_layers(teacher_layers, student_layers) == expected


@pytest.mark.parametrize("student_layers", range(1, 25))
def test_evenly_spaced_layers_ascend_without_repetition(student_layers):
    layers = evenly_spaced_layers(24, student_layers)
    assert len(set(layers)) == student_layers
    assert list(layers) == sorted(layers)


@pytest.mark.parametrize(("layers", "outside"), [([4], 4), ([0, -1], -1), ([0, 1, 99], 99)])
def test_a_layer_that_does_not_exist_is_rejected(teacher, layers, outside):
    with pytest.raises(InputError, match=rf"student\.layers: the teacher has layers 0 to 3, not {outside}"):
        create_student(teacher, layers=layers)


def test_a_teacher_that_is_not_a_bert_is_rejected(teacher):
    student, _ = create_student(teacher)
    with pytest.raises(InputError, match="not a distilbert"):
        create_student(student)


def test_the_parameter_counts_are_those_of_the_papers():
    with torch.device("meta"):
        assert count_parameters(BertModel(BertConfig())) == 109_482_240
        student = DistilBertForMaskedLM(DistilBertConfig())
    student.tie_weights()
    assert count_parameters(student.distilbert) == 66_362_880
    assert count_parameters(student) == 66_985_530


def test_the_student_of_a_bert_base_has_the_size_of_distilbert():
    # A vocabulary of 100 keeps the test light; the rest is BERT-base.
    teacher = BertForMaskedLM(BertConfig(vocab_size=100))
    student, source = create_student(teacher)
    layers = {name.split(".")[3] for name in source.values() if name.startswith("bert.encoder.layer.")}
    assert layers == {"0", "2", "4", "7", "9", "11"}
    assert count_parameters(student) == 66_985_530 - (30_522 - 100) * (768 + 1)
