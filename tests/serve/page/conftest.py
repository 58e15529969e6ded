import pytest

from distilray.config.serving import FillMaskAppConfig
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
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


@pytest.fixture(scope="session")
def student():
    """Page over a fake service with one model."""
    fake_service = FakeService("student")
    with listening(fake_service.api) as fake_service.address:
        yield fake_service


@pytest.fixture(scope="session")
def pair():
    """Page over a fake service with two models."""
    fake_service = FakeService("teacher", "student")
    with listening(fake_service.api) as fake_service.address:
        yield fake_service


@pytest.fixture(scope="session")
def site(model, model_dir):
    """URL of the real application with the tiny model."""
    service = ModelService(model, FillMaskAppConfig(model_dir=model_dir))
    with listening(create_api(Models(service, name="tiny"))) as address:
        yield address
