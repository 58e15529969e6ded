import pytest

from serve.telemetry.metrics import Telemetry
from tests.serve.contract.clients import LIMITS, client_of, service_of


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    from tests.tiny.models import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("served"), "distilbert")


@pytest.fixture(scope="session")
def model(model_dir):
    from distilray.inference.tasks.fill_mask import FillMask

    return FillMask.load(model_dir, precision="fp32")


@pytest.fixture(scope="session")
def service(model, model_dir):
    """Service with limits that tests can reach."""
    return service_of(model, model_dir, **LIMITS)


@pytest.fixture(scope="session")
def client(service):
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="session")
def roomy_client(model, model_dir):
    """Client of a service with default limits."""
    with client_of(service_of(model, model_dir)) as client:
        yield client


@pytest.fixture
def telemetry():
    return Telemetry(replica="r1")


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
