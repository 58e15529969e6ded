"""What a refactoring must not change; `make golden` records it again after a change of results that is meant."""

from pathlib import Path

import pytest

from tests.golden.documents import openapi_document, report_files
from tests.golden.record import OPENAPI, PIPELINE, differences, recorded
from tests.golden.tiny_pipeline import pipeline_values


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return report_files(tmp_path_factory.mktemp("report"))


def test_the_pipeline_writes_the_recorded_artifacts(tmp_path: Path) -> None:
    assert differences(recorded(PIPELINE), pipeline_values(tmp_path)) == {}


def test_the_service_has_the_recorded_openapi_document(tmp_path: Path) -> None:
    assert differences(recorded(OPENAPI), openapi_document(tmp_path)) == {}


@pytest.mark.parametrize("name", ["report.html", "README.md"])
def test_the_report_of_made_up_runs_is_the_recorded_one(report: dict[str, str], name: str) -> None:
    assert report[name].splitlines() == recorded(name).splitlines()
