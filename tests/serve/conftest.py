import pytest

from distilray.inference.tasks.fill_mask import FillMask
from tests.serve.server_process import running_server
from tests.tiny.models import write_tiny_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("served"), "distilbert")


@pytest.fixture(scope="session")
def model(model_dir):
    return FillMask.load(model_dir, dtype="float32")


@pytest.fixture(scope="session", params=["python", "haproxy"])
def service_url(request, model_dir):
    """URL of the service with the tiny model in fp32, behind each proxy; for slow tests."""
    settings = ("app.dtype=float32", "ray.num_cpus=2", f"proxy={request.param}")
    with running_server(model_dir, *settings) as url:
        yield url
