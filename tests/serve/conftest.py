import pytest

from distilray.inference.fill_mask import FillMask
from tests.distilray.inference.tiny_models import write_tiny_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("served"), "distilbert")


@pytest.fixture(scope="session")
def model(model_dir):
    return FillMask.load(model_dir, dtype="float32")
