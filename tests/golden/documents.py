"""OpenAPI document of the service, and report and model card of synthetic runs."""

from pathlib import Path
from typing import Any

from distilray.inference.tasks.fill_mask import FillMask
from jobs import write_report
from serve.models import Models
from serve.routes import create_api
from tests.serve.contract.clients import service_of
from tests.tiny.models import write_tiny_model
from tests.tiny.recipes import write_recipe
from tests.tiny.runs import write_line

# Folders of `write_line`; the report is about the first student.
_RUNS = ("corpus", "shards", "teacher", "student", "fill_mask", "glue", "search", "bias", "export", "efficiency")


def openapi_document(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    model_dir = write_tiny_model(folder, "distilbert")
    document: dict[str, Any] = create_api(Models(service_of(FillMask.load(model_dir), model_dir))).openapi()
    return document


def report_files(folder: Path) -> dict[str, str]:
    """Return the files of `jobs.write_report`, with `FOLDER` in place of the folder of the runs."""
    write_line(folder / "runs")
    paths = [str(folder / "runs" / name) for name in _RUNS]
    recipe = write_recipe(folder, run_dir=str(folder / "report"), run_paths=paths)
    assert write_report.main(["--recipe", recipe]) == 0
    files = [folder / "report" / name for name in ("report.html", "README.md")]
    return {file.name: file.read_text().replace(str(folder), "FOLDER") for file in files}
