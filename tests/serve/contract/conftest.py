import pytest
from starlette.testclient import TestClient

from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import LIMITS, service_of


@pytest.fixture(scope="session")
def service(model, model_dir):
    """With limits so small that tests reach them."""
    return service_of(model, model_dir, **LIMITS)


@pytest.fixture(scope="session")
def client(service):
    with TestClient(create_api(Models(service)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def roomy_client(model, model_dir):
    """With the limits that the service has when nothing is said."""
    with TestClient(create_api(Models(service_of(model, model_dir))), raise_server_exceptions=False) as client:
        yield client
