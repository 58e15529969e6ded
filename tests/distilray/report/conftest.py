import pytest

from distilray.report.sections import training_curves, training_data
from tests.tiny.runs import write_line


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """Folder with the runs of a complete pipeline, and their content hashes by name."""
    folder = tmp_path_factory.mktemp("pipeline")
    return folder, write_line(folder)


@pytest.fixture
def without_charts(monkeypatch):
    """Skip the charts, which take most of the time and have separate tests."""
    for section, name in ((training_curves, "line_chart"), (training_data, "bar_chart")):
        monkeypatch.setattr(section, name, lambda *_, **__: "")
