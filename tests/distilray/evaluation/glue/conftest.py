import pytest

from tests.distilray.evaluation.glue.tiny_tasks import write_trainable_model


@pytest.fixture(scope="session")
def bert_dir(tmp_path_factory):
    return write_trainable_model(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session")
def distilbert_dir(tmp_path_factory):
    return write_trainable_model(tmp_path_factory.mktemp("distilbert"), "distilbert")
