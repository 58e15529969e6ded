"""The examples in CONTRIBUTING.md work as printed."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModel, AutoTokenizer

from distilray.config.distillation import LossConfig
from distilray.config.serving import FillMaskAppConfig
from distilray.corpus.chunks import check_inputs, plan_chunks, source_files
from distilray.corpus.extraction import ScreeningData, extract_chunk
from distilray.corpus.sources.kinds import SOURCE_KINDS
from distilray.distillation.losses import LOSSES
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.models.architectures import ARCHITECTURES, architecture_of
from distilray.models.masked_lm import encode, load_masked_lm, save_model
from distilray.models.student import create_student
from distilray.pretraining_data.batches import collate
from serve.models import Models
from serve.routes import TASK_ROUTES, create_api, routes_for_task
from serve.service import ModelService
from tests.distilray.models.test_architectures import SHAPE
from tests.serve.contract.clients import assert_error
from tests.tiny.extraction import LENIENT, documents
from tests.tiny.models import write_teacher, write_tiny_model, write_tokenizer
from tests.tiny.shards import open_shards, planned, step_counts, write_shards

TABLES = (LOSSES, SOURCE_KINDS, TASK_ROUTES, ARCHITECTURES)
BLOCK = re.compile(r"^### ([^\n]+)\n(?:(?!^##).)*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROWS = np.arange(4)

Example = Callable[[str], dict[str, Any]]


def code_blocks(text: str) -> dict[str, str]:
    """Return the first Python block below each heading of the third level."""
    return dict(BLOCK.findall(text))


@pytest.fixture
def example(root: Path) -> Iterator[Example]:
    """Return a function that runs the example below a heading and returns its names; the tables are restored."""
    blocks = code_blocks((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))

    def run(heading: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "example"}
        exec(compile(blocks[heading], f"CONTRIBUTING.md, {heading}", "exec"), names)
        return names

    with ExitStack() as stack:
        for table in TABLES:
            stack.enter_context(patch.dict(table))
        yield run


def test_blocks_are_recognized_by_their_heading() -> None:
    shell, block_b, block_d = "```sh\nx\n```\n", "```python\nb = 1\n```\n", "```python\nd = 2\n```\n"
    text = f"## A\n\n{shell}### B\ntext\n{shell}{block_b}### C\n### D\n{block_d}"
    assert code_blocks(text) == {"B": "b = 1\n", "D": "d = 2\n"}


def test_every_example_is_tested(root: Path) -> None:
    headings = code_blocks((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    tested = re.findall(r'example\("([^"]+)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert sorted(headings) == sorted(set(tested))


def test_the_loss_is_a_term_of_the_training_step(example: Example, tmp_path: Path) -> None:
    names = example("Add a loss")
    tokenizer_dir = write_tokenizer(tmp_path / "tokenizer")
    teacher = load_masked_lm(write_teacher(tmp_path / "teacher", tokenizer_dir))
    shards = open_shards(write_shards(tmp_path / "shards", tokenizer_dir))
    student = create_student(teacher)[0]
    batch, counts = TensorBatch.of(collate(shards, planned(ROWS), pad_id=0)), step_counts(shards, ROWS)

    def loss_and_terms(losses: LossConfig) -> Any:
        with torch.no_grad():
            return DistillationLoss(student, teacher, losses)(batch, counts)

    without, _ = loss_and_terms(LossConfig())
    loss, terms = loss_and_terms(names["HuberLossConfig"](alpha_huber=0.5))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        ours = student.base_model(**inputs).last_hidden_state
        theirs = teacher.base_model(**inputs, token_type_ids=batch.token_type_ids).last_hidden_state
    distance = (ours - theirs)[batch.attention_mask.bool()].abs().double().numpy()
    expected = np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    assert terms["huber"].item() == pytest.approx(expected, rel=1e-5)
    assert (loss - without).item() == pytest.approx(0.5 * expected, rel=1e-3)


SUBTITLES = """\ufeff1
00:00:01,000 --> 00:00:02,500
The dog barks at
42
people.

2
00:00:03,000 --> 00:00:04,000
It sleeps in the shade.
"""


def test_the_source_yields_documents_and_quarantines_unreadable_ones(example: Example, tmp_path: Path) -> None:
    names = example("Add a corpus source")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/dog.srt").write_text(SUBTITLES, encoding="utf-8")
    (tmp_path / "films/latin.srt").write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\nCaf\xe9.\n")
    (tmp_path / "films/notes.txt").write_text("No subtitles.")
    source = {"kind": "subtitles", "path": f"{tmp_path}/films"}
    recipe = {"run_dir": str(tmp_path / "run"), "sources": [source], "filters": LENIENT}
    config = names["SubtitlesCorpusConfig"].model_validate(recipe)
    files = source_files(config)
    check_inputs(config, files)
    counts = [extract_chunk(chunk, config, config.run_dir, ScreeningData()) for chunk in plan_chunks(config, files)]
    [row] = documents(config, counts).to_pylist()
    assert (row["doc_id"], row["sentences"]) == (
        "subtitles:dog.srt",
        ["The dog barks at 42 people.", "It sleeps in the shade."],
    )
    assert sum(count.quarantined["not_utf8"] for count in counts) == 1


def test_the_task_answers_over_http(example: Example, tmp_path: Path) -> None:
    example("Add a served task")
    model_dir = write_tiny_model(tmp_path, "distilbert")
    texts = ["paris is big", "the sun and the moon are old"]
    tokenizer, model = AutoTokenizer.from_pretrained(model_dir), AutoModel.from_pretrained(model_dir).eval()
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt"))[0][0].mean(dim=0).tolist() for text in texts]
    config = FillMaskAppConfig(task="embed", model_dir=model_dir)
    task = routes_for_task("embed").task.load(model_dir)
    with TestClient(create_api(Models(ModelService(task, config)))) as client:
        response = client.post("/v1/embed", json={"inputs": texts})
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(response.json(), expected, atol=1e-5)
        np.testing.assert_allclose(client.post("/v1/embed", json={"inputs": texts[0]}).json(), expected[0], atol=1e-5)
        assert_error(client.post("/v1/embed", json={"inputs": "sun " * 100}), 422, "TextTooLong")


def test_the_family_is_loaded_from_a_folder_and_has_students(example: Example, tmp_path: Path) -> None:
    family = example("Add a model family")["ERNIE"]
    torch.manual_seed(0)
    new = family.new_masked_lm(family.new_config(**SHAPE, initializer_range=0.5))
    save_model(new, tmp_path, "{}")
    teacher = load_masked_lm(str(tmp_path))
    assert architecture_of(teacher.config) is family
    assert create_student(teacher)[0].config.n_layers == 1
    student, _ = create_student(teacher, layers=range(3))
    input_ids = torch.tensor([[3, 14, 15, 9, 26]])
    attention_mask, token_type_ids = torch.ones_like(input_ids), torch.zeros_like(input_ids)
    with torch.no_grad():
        expected = new.eval()(input_ids, attention_mask, token_type_ids).logits
        torch.testing.assert_close(student(input_ids, attention_mask).logits, expected, rtol=1e-4, atol=1e-4)
        assert encode(teacher, input_ids, attention_mask, token_type_ids).shape == (1, 5, 16)
