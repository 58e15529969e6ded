import pytest

from serve.models import Models
from tests.serve.contract.clients import client_of, service_of
from tests.serve.page.browser import CHROMIUM, Browser
from tests.serve.page.fake_service import FakeService
from tests.serve.server_thread import listening


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser):
    """Page that must only use one origin and log no errors."""
    page = browser.page()
    try:
        yield page
        assert page.complaints == []
        assert len(page.origins()) == 1
    finally:
        page.close()


def served(service):
    with listening(service.api) as service.address:
        yield service


@pytest.fixture(scope="session")
def student():
    """Fake service with one model."""
    yield from served(FakeService("student"))


@pytest.fixture(scope="session")
def pair():
    """Fake service with two models."""
    yield from served(FakeService("teacher", "student"))


@pytest.fixture(scope="session")
def site(model, model_dir):
    """URL of the real application with the tiny model."""
    with listening(client_of(Models(service_of(model, model_dir), name="tiny")).app) as address:
        yield address
