import pytest
import torch

from distilray.models.layer_outputs import EMBEDDINGS, LayerOutputs, default_layer_map
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.student import create_student

HEADS = 2
ATTENTION = {
    "bert": (lambda model, layer: model.bert.encoder.layer[layer].attention.self, ("query", "key", "value")),
    "distilbert": (
        lambda model, layer: model.distilbert.transformer.layer[layer].attention,
        ("q_lin", "k_lin", "v_lin"),
    ),
}
INPUTS = torch.tensor([[2, 9, 40, 7, 3], [2, 11, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(params=["bert", "distilbert"])
def model(request, teacher_dir):
    """Models of four and of three layers."""
    teacher = load_masked_lm(teacher_dir)
    return teacher if request.param == "bert" else create_student(teacher, layers=[0, 2, 3])[0]


def layers_of(model):
    return range(EMBEDDINGS, model.config.num_hidden_layers)


def hidden_states(model):
    return model(INPUTS[0], attention_mask=INPUTS[1], output_hidden_states=True).hidden_states


def listen(model, layers):
    """Outputs of one forward pass."""
    outputs = LayerOutputs(model, layers)
    encode(model, *INPUTS, None)
    return outputs


def test_the_hidden_states_are_those_that_transformers_reports(model):
    expected = hidden_states(model)
    outputs = listen(model, layers_of(model))
    assert len(expected) == len(layers_of(model))
    for layer in layers_of(model):
        assert torch.equal(outputs.hidden(layer), expected[layer + 1]), layer


@pytest.mark.parametrize(("place", "name"), enumerate(["queries", "keys", "values"]))
def test_a_projection_is_that_of_the_hidden_states_before_its_layer_split_into_heads(model, place, name):
    before = hidden_states(model)
    outputs = listen(model, layers_of(model))
    attention, names = ATTENTION[model.config.model_type]
    batch, length = INPUTS[0].shape
    head_dim = model.config.hidden_size // HEADS
    for layer in range(model.config.num_hidden_layers):
        module = getattr(attention(model, layer), names[place])
        whole = before[layer] @ module.weight.T + module.bias
        found = outputs.projection(name, layer)
        assert found.shape == (batch, HEADS, length, head_dim)
        for head in range(HEADS):
            expected = whole[..., head * head_dim : (head + 1) * head_dim]
            torch.testing.assert_close(found[:, head], expected, rtol=1e-5, atol=1e-5)


def test_recording_does_not_change_the_output_of_a_model(model):
    expected = encode(model, *INPUTS, None)
    LayerOutputs(model, layers_of(model))
    assert torch.equal(encode(model, *INPUTS, None), expected)


def test_gradients_flow_through_recorded_outputs(model):
    listen(model, [1]).projection("values", 1).sum().backward()
    attention, names = ATTENTION[model.config.model_type]
    assert getattr(attention(model, 1), names[2]).weight.grad.abs().max() > 0
    assert getattr(attention(model, 0), names[2]).weight.grad.abs().max() > 0


def test_only_the_chosen_layers_are_recorded(model):
    outputs = listen(model, [1, 1])
    assert outputs.hidden(1) is not None
    for layer in (EMBEDDINGS, 0, 2):
        with pytest.raises(KeyError):
            outputs.hidden(layer)


def test_the_embeddings_have_no_projections(model):
    outputs = listen(model, [EMBEDDINGS])
    for name in ("queries", "keys", "values"):
        with pytest.raises(KeyError):
            outputs.projection(name, EMBEDDINGS)


def test_the_last_forward_pass_counts(model):
    outputs = LayerOutputs(model, [0])
    encode(model, INPUTS[0][:1], INPUTS[1][:1], None)
    encode(model, *INPUTS, None)
    assert torch.equal(outputs.hidden(0), hidden_states(model)[1])


def test_clear_forgets_everything(model):
    outputs = listen(model, layers_of(model))
    outputs.clear()
    for layer in layers_of(model):
        with pytest.raises(KeyError):
            outputs.hidden(layer)
    for name in ("queries", "keys", "values"):
        with pytest.raises(KeyError):
            outputs.projection(name, 0)


def test_after_clear_the_next_forward_pass_is_recorded(model):
    outputs = listen(model, [0])
    outputs.clear()
    encode(model, *INPUTS, None)
    assert torch.equal(outputs.hidden(0), hidden_states(model)[1])


def test_recomputation_in_the_backward_pass_is_not_recorded(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    outputs = LayerOutputs(model.train(), [0])
    hidden = encode(model, *INPUTS, None)
    outputs.clear()
    hidden.sum().backward()
    with pytest.raises(KeyError):
        outputs.projection("queries", 0)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (12, 6, [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        (6, 3, [(0, 1), (1, 3), (2, 5)]),
        (4, 2, [(0, 1), (1, 3)]),
        (5, 2, [(0, 1), (1, 4)]),
        (4, 4, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (4, 1, [(0, 3)]),
    ],
)
def test_a_layer_is_mapped_to_the_last_of_those_it_replaces(teacher, student, expected):
    assert default_layer_map(teacher, student) == expected


@pytest.mark.parametrize("teacher", range(1, 25))
def test_the_last_layers_are_always_a_pair(teacher):
    for student in range(1, teacher + 1):
        assert default_layer_map(teacher, student)[-1] == (student - 1, teacher - 1)
