"""The documentation's notebook runs in a Jupyter kernel, and its stored outputs are those of a complete run."""

import ast
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from distilray.config.evaluation import FillMaskDataConfig
from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.readers import data_files, read_examples
from distilray.inference.tasks.fill_mask import FillMask
from distilray.report.model_card import SAMPLE
from tests.tiny.fill_mask import write_rows
from tests.tiny.models import write_tiny_model

NOTEBOOK = Path("docs/notebooks/fill_mask.ipynb")
PARAMETERS = ("TEACHER", "STUDENT", "ROWS", "RUN_DIR", "PORT")
TEXTS = ["Paris is [MASK] of France", "the [MASK] sat on the mat.", "a dog and [MASK] cat", "we [MASK] home"]
CELL_S = 240
# Of variables of the notebook, which are not in its outputs.
SHOW = """print(json.dumps({"scores": run.scores["student"], "ranks": rows["student rank"].to_list(), "url": address,
    **{model: comparison[model].to_list() for model in ("teacher", "student")}}))"""

Notebook = dict[str, Any]


@pytest.fixture(scope="module")
def notebook(root: Path) -> Notebook:
    return dict(json.loads((root / NOTEBOOK).read_text(encoding="utf-8")))


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parameters_of(notebook: Notebook) -> dict[str, Any]:
    """Return the variables that the first cell sets."""
    cell = code_cells(notebook)[0]
    assert cell["metadata"]["tags"] == ["parameters"]
    statements = ast.parse(source(cell)).body
    return {each.targets[0].id: ast.literal_eval(each.value) for each in statements}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def execute(
    notebook: Notebook, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., dict[str, Any]]]:
    """Return a function that runs the notebook in a kernel and returns the outputs by cell id."""
    home = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
            patch.setenv(name, str(home / name.lower()))  # instead of the user's
        patch.setenv("PYTHONPATH", str(root / "platform"))

        def execute(show: str = "", **values: object) -> dict[str, Any]:
            import nbformat
            from nbclient import NotebookClient

            assert tuple(values) == PARAMETERS
            changed = nbformat.reads(json.dumps(notebook), as_version=4)
            code_cells(changed)[0]["source"] = "\n".join(f"{name} = {value!r}" for name, value in values.items())
            before = next(at for at, cell in enumerate(changed["cells"]) if cell["id"] == "delete")
            changed["cells"].insert(before, nbformat.v4.new_code_cell(show, id="show"))
            resources = {"metadata": {"path": str((root / NOTEBOOK).parent)}}
            NotebookClient(changed, timeout=CELL_S, kernel_name="python3", resources=resources).execute()
            return {cell["id"]: cell["outputs"] for cell in code_cells(changed)}

        yield execute


@pytest.mark.slow
def test_it_compares_two_models_and_serves_them(
    execute: Callable[..., dict[str, Any]], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    teacher, student = (write_tiny_model(tmp_path / name, name) for name in ("bert", "distilbert"))
    predictions = [masks[0] for masks in FillMask.load(student, precision="fp32").fill(TEXTS, top_k=40)]
    # The answer to each text is a word that the student predicts at about this rank.
    ranks = [
        next(rank for rank, one in enumerate(candidates, 1) if rank >= wanted and one.token_str.isalpha())
        for candidates, wanted in zip(predictions, (1, 3, 7, 20), strict=True)
    ]
    answers = [candidates[rank - 1].token_str for candidates, rank in zip(predictions, ranks, strict=True)]
    rows = [{"text": text, "answer": answer} for text, answer in zip(TEXTS, answers, strict=True)]
    outputs = execute(
        SHOW,
        TEACHER=teacher,
        STUDENT=student,
        ROWS=write_rows(tmp_path / "rows.jsonl", rows),
        RUN_DIR=str(tmp_path / "run"),
        PORT=free_port(),
    )
    shown = json.loads(outputs["show"][0]["text"])
    assert shown["ranks"] == ranks
    expected = {f"hit@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    assert {name: shown["scores"][name] for name in expected} == expected

    best = {
        name: [masks[0][0].token_str for masks in FillMask.load(folder, precision="fp32").fill(TEXTS, top_k=1)]
        for name, folder in (("teacher", teacher), ("student", student))
    }
    assert {name: shown[name] for name in best} == best
    assert ast.literal_eval(outputs["send"][0]["data"]["text/plain"]) == best["student"][:1]
    candidates = ast.literal_eval(outputs["candidates"][0]["data"]["text/plain"])
    assert [one["token_str"] for one in candidates] == [one.token_str for one in predictions[0][:3]]

    assert [sorted(output["data"]) for output in outputs["chart"]] == [["image/png", "text/plain"]]
    assert "serve_fill_mask: stopped\n" in [output["text"] for output in outputs["delete"]]
    with pytest.raises(URLError, match="refused"):
        urllib.request.urlopen(f"http://{shown['url']}/healthz")


@pytest.mark.slow
def test_without_models_it_stops_with_one_line(execute: Callable[..., dict[str, Any]], notebook: Notebook) -> None:
    from nbclient.exceptions import CellExecutionError

    with pytest.raises(CellExecutionError) as caught:
        execute(**parameters_of(notebook) | {"TEACHER": "no-such-model"})
    assert "no-such-model" in caught.value.evalue
    assert f"InputError: {caught.value.evalue}" in caught.value.traceback
    assert "Traceback" not in caught.value.traceback


def test_its_parameters_are_the_quickstart_and_rows_that_can_be_scored(notebook: Notebook, root: Path) -> None:
    parameters = parameters_of(notebook)
    assert tuple(parameters) == PARAMETERS
    assert (parameters["TEACHER"], parameters["STUDENT"]) == ("runs/quickstart/teacher", "runs/quickstart/student")
    data = FillMaskDataConfig(path=str(root / parameters["ROWS"]), text_column="text", answer_column="answer")
    rows = [row for file in data_files(data) for row in read_examples(file, data, seed=0)]
    assert len(rows) == 100
    assert all(isinstance(row, MaskedExample) for row in rows)


def test_it_contains_the_sample_code_of_the_model_card(notebook: Notebook) -> None:
    assert SAMPLE in map(source, code_cells(notebook))


def test_it_is_stored_with_the_outputs_of_a_complete_run(notebook: Notebook) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = {cell["id"]: cell["outputs"] for cell in cells}
    silent = [name for name, listed in outputs.items() if not listed]
    assert silent == ["parameters", "folders"]
    assert "error" not in {output["output_type"] for listed in outputs.values() for output in listed}
