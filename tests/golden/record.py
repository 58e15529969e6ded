"""Record results that refactoring must not change, for comparison by tests.

    PYTHONPATH=platform python -m tests.golden.record                  write the files in tests/golden/recorded again
    PYTHONPATH=platform python -m tests.golden.record --runs FOLDER    print the hashes of the runs in a folder

Use the second form before and after a change for runs that take minutes, such as runs/quickstart.
"""

import argparse
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
PIPELINE, DRY_RUNS, OPENAPI = "pipeline.json", "dry_runs.json", "openapi.json"


@functools.cache
def recorded(name: str) -> Any:
    """Return the recorded content of a file."""
    text = (RECORDED / name).read_text()
    return json.loads(text) if name.endswith(".json") else text


def differences(expected: Any, actual: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the differing leaves of nested dictionaries as (expected, actual), by their keys joined with dots."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        result = {}
        for name in [*expected, *(name for name in actual if name not in expected)]:
            result |= differences(expected.get(name), actual.get(name), f"{key}.{name}" if key else name)
        return result
    return {} if expected == actual else {key: (expected, actual)}


def run_hashes(run: Path) -> dict[str, Any]:
    """Return hash, config, counts, and the sha256 of each output from the manifest of a run."""
    manifest = json.loads((run / "manifest.json").read_text())
    content = manifest["content"]
    outputs = {name: entry["sha256"] for name, entry in content["outputs"].items()}
    return {"content_hash": manifest["content_hash"], **content, "outputs": outputs}


def _record(folder: Path) -> None:
    import tests.conftest  # noqa: F401 - sets the environment of the tests
    from tests.golden.documents import openapi_document, report_files
    from tests.golden.tiny_pipeline import pipeline_values
    from tests.jobs.recipe_inputs import write_inputs
    from tests.jobs.recipe_plans import RECIPES, plan_of, recipe_name

    values: dict[str, Any] = {PIPELINE: pipeline_values(folder / "pipeline")}
    inputs = write_inputs(folder / "inputs")
    (folder / "empty").mkdir()
    values[DRY_RUNS] = {recipe_name(recipe): plan_of(recipe, inputs, folder / "empty") for recipe in RECIPES}
    values[OPENAPI] = openapi_document(folder / "openapi")
    for name, value in values.items():
        (RECORDED / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    for name, text in report_files(folder / "report").items():
        (RECORDED / name).write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="print the hashes of the runs in it instead")
    folder = parser.parse_args().runs
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            _record(Path(temporary))
    else:
        runs = sorted(file.parent for file in folder.glob("*/manifest.json"))
        print(json.dumps({run.name: run_hashes(run) for run in runs}, indent=1))


if __name__ == "__main__":
    main()
