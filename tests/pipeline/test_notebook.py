"""The documentation's notebook works: its cells run in order in one namespace, without Jupyter."""

import json
import threading
from pathlib import Path

import pytest
import uvicorn

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMask
from distilray.report.model_card import SAMPLE
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.tiny.models import write_tiny_model

NOTEBOOK = Path("docs/notebooks/fill_mask.ipynb")


@pytest.fixture(scope="module")
def notebook(root):
    return json.loads((root / NOTEBOOK).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), "distilbert")


@pytest.fixture
def service(model_dir, free_port):
    """URL of the API in a thread of this process, without Ray."""
    config = FillMaskAppConfig(model_dir=model_dir, precision="fp32")
    api = create_api(Models(ModelService(FillMask.load(model_dir, precision="fp32"), config)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def code_of(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def execute(notebook, monkeypatch, root):
    """Return a function that runs all cells in the folder of the notebook, like Jupyter, and returns the namespace."""

    def execute(model_dir, url, known=None):
        monkeypatch.chdir((root / NOTEBOOK).parent)
        monkeypatch.setenv("DISTILRAY_MODEL_DIR", model_dir)
        monkeypatch.setenv("DISTILRAY_URL", url)
        namespace = {"__name__": "__main__"}
        for number, code in enumerate(code_of(notebook)):
            exec(compile(code, f"cell {number}", "exec"), namespace)
            if known is not None and code.startswith("known ="):
                namespace["known"] = known  # instead of the texts and words that the notebook evaluates
        return namespace

    return execute


def test_it_fills_masks_evaluates_and_uses_the_service(execute, model_dir, service, capsys):
    model, text = FillMask.load(model_dir, precision="fp32"), "Paris is the [MASK] of France."
    best = model.fill([text], top_k=10)[0][0]
    known = [(text, best[0].token_str), (text, best[3].token_str), (text, "no such word")]
    namespace = execute(model_dir, service, known)
    assert namespace["ranks"] == [1, 4, None]
    assert namespace["scores"] == pytest.approx({"hit@1": 1 / 3, "hit@5": 2 / 3, "hit@10": 2 / 3, "mrr": 1.25 / 3})
    assert namespace["answers"]["/score"] == [best[0].token_str]
    assert [candidate["token_str"] for candidate in namespace["answers"]["/v1/fill-mask"]] == [
        one.token_str for one in best[:3]
    ]
    assert best[0].sequence in capsys.readouterr().out


def test_without_a_service_it_shows_how_to_start_one(execute, model_dir, free_port, capsys):
    assert execute(model_dir, f"http://127.0.0.1:{free_port()}")["answers"] == {}
    assert "make serve starts the service" in capsys.readouterr().out


def test_without_a_model_it_shows_how_to_get_one(execute):
    with pytest.raises(SystemExit, match="run make quickstart, or set DISTILRAY_MODEL_DIR"):
        execute("no-such-model", "")


def test_it_contains_the_sample_code_of_the_model_card(notebook):
    assert SAMPLE in code_of(notebook)


def test_it_is_stored_without_outputs_in_a_supported_format(notebook):
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
