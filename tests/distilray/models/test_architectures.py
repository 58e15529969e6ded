import pytest
import torch

from distilray.models.architectures import ARCHITECTURES, architecture_of

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "dropout": 0.25,
}
each_family = pytest.mark.parametrize("family", ARCHITECTURES.values(), ids=ARCHITECTURES)


@each_family
def test_a_configuration_has_common_names_for_its_family(family):
    config = family.new_config(**SHAPE)
    assert architecture_of(config) is family
    assert {name: family.config_value(config, name) for name in SHAPE} == SHAPE


@each_family
def test_a_record_describes_the_modules_of_its_family(family):
    with torch.device("meta"):
        model = family.new_masked_lm(family.new_config(**SHAPE))
    layer, embeddings = family.layers_of(model)[1], family.embeddings_of(model)
    tensors = {id(tensor) for module in family.modules_of(layer) for tensor in module.parameters()}
    assert tensors == {id(tensor) for tensor in layer.parameters()}
    assert family.head_of(model).decoder.weight is embeddings.word_embeddings.weight
    assert family.reads_token_types == hasattr(embeddings, "token_type_embeddings")
    assert family.student is None or family.student in ARCHITECTURES
