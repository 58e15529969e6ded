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
    """A page that must ask one origin alone and complain of nothing."""
    page = browser.page()
    try:
        yield page
        assert page.complaints == []
        assert len(page.origins()) == 1
    finally:
        page.close()


@pytest.fixture(scope="session")
def student():
    """The page over a stand-in for one model."""
    stand_in = FakeService("student")
    with listening(stand_in.api) as stand_in.address:
        yield stand_in


@pytest.fixture(scope="session")
def pair():
    """The page over a stand-in for two models."""
    stand_in = FakeService("teacher", "student")
    with listening(stand_in.api) as stand_in.address:
        yield stand_in


@pytest.fixture(scope="session")
def site(model, model_dir):
    """Address of the real application over the tiny model."""
    service = ModelService(model, FillMaskAppConfig(model_dir=model_dir))
    with listening(create_api(Models(service, name="tiny"))) as address:
        yield address
