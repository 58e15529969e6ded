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


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    with torch.device("meta"):
        return family.new_masked_lm(family.new_config(**SHAPE))


def test_a_configuration_is_of_the_family_that_made_it(family):
    assert architecture_of(family.new_config(**SHAPE)) is family


def test_a_setting_is_read_by_the_name_that_all_families_share(family):
    config = family.new_config(**SHAPE)
    assert {name: family.config_value(config, name) for name in SHAPE} == SHAPE


def test_every_tensor_of_a_layer_belongs_to_a_module_of_the_record(family, model):
    layer = family.layers_of(model)[1]
    tensors = {id(tensor) for module in family.modules_of(layer) for tensor in module.parameters()}
    assert tensors == {id(tensor) for tensor in layer.parameters()}


def test_the_decoder_shares_its_weight_with_the_word_embeddings(family, model):
    assert family.head_of(model).decoder.weight is family.embeddings_of(model).word_embeddings.weight


def test_token_types_are_read_where_the_embeddings_have_them(family, model):
    assert family.reads_token_types == hasattr(family.embeddings_of(model), "token_type_embeddings")


def test_the_student_of_a_family_has_a_record_too(family):
    assert family.student is None or family.student in ARCHITECTURES
