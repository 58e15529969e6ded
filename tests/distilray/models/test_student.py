import math

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
    modules = {
        "distilbert.embeddings.word_embeddings": embeddings.word_embeddings,
        "distilbert.embeddings.LayerNorm": embeddings.LayerNorm,
        "vocab_projector": head.decoder,
        "vocab_transform": head.transform.dense,
        "vocab_layer_norm": head.transform.LayerNorm,
    }
    for index, layer in enumerate(bert.encoder.layer[number] for number in layers):
        paths = {
            "attention.q_lin": layer.attention.self.query,
            "attention.k_lin": layer.attention.self.key,
            "attention.v_lin": layer.attention.self.value,
            "attention.out_lin": layer.attention.output.dense,
            "sa_layer_norm": layer.attention.output.LayerNorm,
            "ffn.lin1": layer.intermediate.dense,
            "ffn.lin2": layer.output.dense,
            "output_layer_norm": layer.output.LayerNorm,
        }
        modules |= {f"distilbert.transformer.layer.{index}.{path}": module for path, module in paths.items()}
    positions = embeddings.position_embeddings.weight
    state = {POSITIONS: positions + embeddings.token_type_embeddings.weight[0] if fold else positions}
    return state | {
        f"{path}.{name}": tensor for path, module in modules.items() for name, tensor in module.named_parameters()
    }


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("layers", [None, [1], [3, 0, 2]])
def test_every_tensor_of_the_student_is_copied_from_the_teacher(teacher, layers, fold):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, origins = create_student(teacher, layers=layers, fold_segment_a=fold)
    expected = expected_state(teacher, layers or (0, 3), fold=fold)
    state = student.state_dict()
    assert set(state) == set(expected) == set(origins)
    assert [name for name, tensor in expected.items() if not torch.equal(state[name], tensor)] == []
    assert origins[POSITIONS] == "bert.embeddings.position_embeddings.weight" + " + segment A" * fold
    assert origins["distilbert.transformer.layer.0.ffn.lin1.bias"] == (
        f"bert.encoder.layer.{(layers or [0])[0]}.intermediate.dense.bias"
    )
    assert student.config.n_layers == len(layers or (0, 3))
    assert not student.training
    words = student.distilbert.embeddings.word_embeddings.weight
    assert student.vocab_projector.weight is words
    assert words.requires_grad
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_student_has_the_settings_of_its_teacher(teacher):
    names = ("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings", "initializer_range")
    config = create_student(teacher)[0].config
    assert [getattr(config, name) for name in names] == [getattr(teacher.config, name) for name in names]
    assert (config.dropout, config.hidden_dim) == (0.1, teacher.config.intermediate_size)


def test_a_student_with_random_weights_has_only_the_size_of_its_teacher(teacher):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second, other = (create_student(teacher, random_seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)  # the random state is unchanged
    copied = create_student(teacher)[0]
    assert set(first[1].values()) == {"fresh"}
    assert first[0].config.to_dict() == copied.config.to_dict()
    matrices = [name for name, tensor in copied.state_dict().items() if tensor.dim() > 1]
    for name in matrices:
        tensors = [model.state_dict()[name] for model in (first[0], second[0], other[0], copied)]
        assert [torch.equal(tensors[0], tensor) for tensor in tensors[1:]] == [True, False, False], name


@pytest.mark.parametrize("random_seed", [None, 5])
def test_only_the_position_embeddings_can_be_frozen(teacher, random_seed):
    frozen, free = (
        create_student(teacher, freeze_positions=freeze, random_seed=random_seed)[0] for freeze in (True, False)
    )
    assert [name for name, parameter in frozen.named_parameters() if not parameter.requires_grad] == [POSITIONS]
    assert all(parameter.requires_grad for parameter in free.parameters())
    changed = [name for name, tensor in free.state_dict().items() if not torch.equal(tensor, frozen.state_dict()[name])]
    assert changed == ([] if random_seed is None else [POSITIONS])


def test_frozen_positions_of_a_student_with_random_weights_are_sinusoidal(teacher):
    """Vaswani et al. 2017, section 3.5."""
    student, origins = create_student(teacher, freeze_positions=True, random_seed=5)
    table = student.state_dict()[POSITIONS]
    positions, dim = table.shape
    for position in (0, 1, positions - 1):
        angles = [position / 10000 ** (2 * pair / dim) for pair in range(dim // 2)]
        expected = [function(angle) for angle in angles for function in (math.sin, math.cos)]
        assert table[position].tolist() == pytest.approx(expected, abs=1e-6)
    assert {name for name, origin in origins.items() if origin != "fresh"} == {POSITIONS}
    assert "distilbert.embeddings <- sinusoidal (1 tensors)" in summarize_origins(origins)


def test_the_summary_counts_every_tensor_by_component(teacher):
    assert summarize_origins(create_student(teacher)[1]) == [
        "distilbert.embeddings <- bert.embeddings (4 tensors)",
        "masked-LM head <- masked-LM head (6 tensors)",
        "distilbert.transformer.layer.0 <- bert.encoder.layer.0 (16 tensors)",
        "distilbert.transformer.layer.1 <- bert.encoder.layer.3 (16 tensors)",
    ]
    assert "distilbert.embeddings <- fresh (4 tensors)" in summarize_origins(create_student(teacher, random_seed=1)[1])


@torch.no_grad()
def test_a_student_with_every_layer_computes_what_its_teacher_does_for_segment_a(teacher):
    input_ids = torch.randint(5, 60, (3, 20), generator=torch.Generator().manual_seed(2))
    attention = torch.ones_like(input_ids)
    expected = encode(teacher, input_ids, attention, torch.zeros_like(input_ids))
    folded, plain = (create_student(teacher, layers=range(4), fold_segment_a=fold)[0] for fold in (True, False))
    torch.testing.assert_close(encode(folded, input_ids, attention, None), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(encode(plain, input_ids, attention, None), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "expected"),
    [(12, 6, (0, 2, 4, 7, 9, 11)), (6, 3, (0, 2, 5)), (4, 2, (0, 3)), (2, 1, (0,)), (24, 24, tuple(range(24)))],
)
def test_evenly_spaced_layers_include_the_first_and_the_last(teacher_layers, student_layers, expected):
    assert evenly_spaced_layers(teacher_layers, student_layers) == expected


def test_evenly_spaced_layers_ascend_without_repetition():
    for student_layers in range(1, 25):
        layers = evenly_spaced_layers(24, student_layers)
        assert list(layers) == sorted(set(layers))
        assert len(layers) == student_layers


@pytest.mark.parametrize(("layers", "unknown"), [([4], 4), ([0, -1], -1), ([0, 1, 99], 99)])
def test_a_layer_that_does_not_exist_is_rejected(teacher, layers, unknown):
    with pytest.raises(InputError, match=rf"student\.layers: the teacher has layers 0 to 3, not {unknown}$"):
        create_student(teacher, layers=layers)


def test_a_teacher_that_is_not_a_bert_is_rejected(teacher):
    with pytest.raises(InputError, match="not a distilbert"):
        create_student(create_student(teacher)[0])


def test_the_parameter_counts_are_those_of_the_papers():
    with torch.device("meta"):
        assert count_parameters(BertModel(BertConfig())) == 109_482_240
        student = DistilBertForMaskedLM(DistilBertConfig())
    student.tie_weights()
    assert count_parameters(student.distilbert) == 66_362_880
    assert count_parameters(student) == 66_985_530


def test_the_student_of_bert_base_has_every_other_layer_and_the_shapes_of_distilbert():
    # The shapes of BERT-base with a tenth of its dimensions.
    size = {"hidden_size": 72, "intermediate_size": 300, "vocab_size": 100}
    student, origins = create_student(BertForMaskedLM(BertConfig(**size)))
    layers = {name.split(".")[3] for name in origins.values() if name.startswith("bert.encoder.layer.")}
    assert layers == {"0", "2", "4", "7", "9", "11"}
    with torch.device("meta"):
        distilbert = DistilBertForMaskedLM(DistilBertConfig(dim=72, hidden_dim=300, vocab_size=100))
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (student, distilbert)]
    assert shapes[0] == shapes[1]
