import pytest

from distilray.report.sections import claim, model_quality, training_curves, training_data
from tests.tiny.runs import write_line


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory):
    """Folder with the runs of a complete pipeline, and their content hashes by name."""
    folder = tmp_path_factory.mktemp("pipeline")
    return folder, write_line(folder)


@pytest.fixture
def without_charts(monkeypatch):
    """Skip the charts, which take most of the time and have separate tests."""
    charts = ((training_curves, "line_chart"), (training_data, "bar_chart"))
    charts += tuple((section, "comparison_chart") for section in (claim, model_quality))
    for section, name in charts:
        monkeypatch.setattr(section, name, lambda *_, **__: "")
