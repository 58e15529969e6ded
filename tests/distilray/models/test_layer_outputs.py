import pytest
import torch

from distilray.models.layer_outputs import EMBEDDINGS, LayerOutputs, default_layer_map
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.student import create_student

HEADS = 2
PROJECTIONS = ("queries", "keys", "values")
ATTENTION = {  # path and names of the projections
    "bert": ("bert.encoder.layer.{}.attention.self", ("query", "key", "value")),
    "distilbert": ("distilbert.transformer.layer.{}.attention", ("q_lin", "k_lin", "v_lin")),
}
INPUTS = torch.tensor([[2, 9, 40, 7, 3], [2, 11, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(params=["bert", "distilbert"])
def model(request, teacher_dir):
    """Models of four and of three layers."""
    teacher = load_masked_lm(teacher_dir)
    return teacher if request.param == "bert" else create_student(teacher, layers=[0, 2, 3])[0]


def layers_of(model):
    return range(EMBEDDINGS, model.config.num_hidden_layers)


def projection_of(model, layer, number):
    path, names = ATTENTION[model.config.model_type]
    return model.get_submodule(f"{path.format(layer)}.{names[number]}")


def hidden_states(model):
    return model(INPUTS[0], attention_mask=INPUTS[1], output_hidden_states=True).hidden_states


def record(model, layers):
    """Return the outputs of one forward pass."""
    outputs = LayerOutputs(model, layers)
    encode(model, *INPUTS, None)
    return outputs


def recorded(outputs, model):
    """Return the layers with hidden states and those with all projections."""

    def has(get, *arguments):
        try:
            get(*arguments)
        except KeyError:
            return False
        return True

    hidden = [layer for layer in layers_of(model) if has(outputs.hidden, layer)]
    return hidden, [layer for layer in layers_of(model) for name in PROJECTIONS if has(outputs.projection, name, layer)]


def test_the_hidden_states_are_those_of_transformers(model):
    expected = hidden_states(model)
    outputs = record(model, layers_of(model))
    assert len(expected) == len(layers_of(model))
    for layer in layers_of(model):
        assert torch.equal(outputs.hidden(layer), expected[layer + 1]), layer


@pytest.mark.parametrize(("number", "name"), enumerate(PROJECTIONS))
def test_a_projection_is_computed_from_the_hidden_states_before_its_layer_and_split_into_heads(model, number, name):
    before = hidden_states(model)
    outputs = record(model, layers_of(model))
    head_dim = model.config.hidden_size // HEADS
    for layer in range(model.config.num_hidden_layers):
        module = projection_of(model, layer, number)
        expected = before[layer] @ module.weight.T + module.bias
        projection = outputs.projection(name, layer)
        assert projection.shape == (*INPUTS[0].shape[:1], HEADS, *INPUTS[0].shape[1:], head_dim)
        for head in range(HEADS):
            of_head = expected[..., head * head_dim : (head + 1) * head_dim]
            torch.testing.assert_close(projection[:, head], of_head, rtol=1e-5, atol=1e-5)


def test_recording_does_not_change_the_output_of_a_model(model):
    expected = encode(model, *INPUTS, None)
    LayerOutputs(model, layers_of(model))
    assert torch.equal(encode(model, *INPUTS, None), expected)


def test_gradients_flow_through_recorded_outputs(model):
    record(model, [1]).projection("values", 1).sum().backward()
    for layer in (0, 1):
        assert projection_of(model, layer, 2).weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("layers", "expected"), [([1, 1], ([1], [1, 1, 1])), ([EMBEDDINGS], ([EMBEDDINGS], [])), ([], ([], []))]
)
def test_only_the_chosen_layers_are_recorded_and_the_embeddings_have_no_projections(model, layers, expected):
    assert recorded(record(model, layers), model) == expected


def test_the_outputs_are_those_of_the_last_forward_pass_until_they_are_cleared(model):
    outputs = LayerOutputs(model, layers_of(model))
    encode(model, INPUTS[0][:1], INPUTS[1][:1], None)
    for _ in range(2):
        encode(model, *INPUTS, None)
        assert torch.equal(outputs.hidden(0), hidden_states(model)[1])
        outputs.clear()
        assert recorded(outputs, model) == ([], [])


def test_recomputation_in_the_backward_pass_is_not_recorded(model):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    outputs = LayerOutputs(model.train(), [0])
    hidden = encode(model, *INPUTS, None)
    outputs.clear()
    hidden.sum().backward()
    assert recorded(outputs, model) == ([], [])


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


def test_the_last_layers_are_always_a_pair():
    for teacher in range(1, 25):
        for student in range(1, teacher + 1):
            assert default_layer_map(teacher, student)[-1] == (student - 1, teacher - 1)
