"""Small files for all inputs of the shipped recipes."""

import bz2
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from distilray.config.glue import GLUE_TASKS
from distilray.export.variants import write_bf16_folder
from distilray.models.masked_lm import save_model
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from tests.tiny.corpus import sentences_of, write_corpus
from tests.tiny.dumps import page, write_multistream
from tests.tiny.fill_mask import rows_of
from tests.tiny.glue import write_glue
from tests.tiny.models import write_tokenizer
from tests.tiny.onnx import write_small_onnx
from tests.tiny.runs import TEACHER_WEIGHTS, glue, write_line, write_run
from tests.tiny.search import write_next_sentence_task
from tests.tiny.shards import write_shards

# Prefixes of locations in recipes, the longest first. The rest is the name in the folder of `write_inputs`.
ROOTS = (
    "/mnt/distilray/card/",
    "/mnt/distilray/",
    "runs/quickstart/",
    "runs/glue-demo/",
    "runs/reproduction/",
    "runs/reproduction-base/",
    "data/",
)
MODELS = ("hub:", "sample:encoder")  # replaced, because they need a network or have another tokenizer than the shards
CHECKOUT, SHIPPED = Path(__file__).parents[2], "jobs/recipes/"  # recipes named in recipes are not replaced
REPORT_RUNS = "report-runs"  # subfolder with the runs of a report
_DUMP = "enwiki-latest-pages-articles-multistream"
_POSITIONS = 512  # length of the position embeddings, as in the recipes


def job_of(recipe: Path) -> str:
    """Return the job of a recipe: the name of its folder, or of the file in folders of the reproduction."""
    return recipe.stem if recipe.parent.name.startswith("reproduction") else recipe.parent.name


def replace_locations(value: Any, folder: Path) -> Any:
    """Return a value of a recipe with its locations replaced by those of `write_inputs`."""
    if isinstance(value, dict):
        return {key: replace_locations(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [replace_locations(inner, folder) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith(MODELS):
        return str(folder / "teacher")
    if value.startswith(SHIPPED):
        return str(CHECKOUT / value)
    root = next((root for root in ROOTS if value.startswith(root)), None)
    return value if root is None else str(folder / value.removeprefix(root))


def write_inputs(folder: Path) -> Path:
    """Write all inputs (a few hundred kilobytes), and return the folder."""
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    # Recipes for millions of documents hold out a thousandth of them.
    write_corpus(folder / "corpus", sentences=200 * sentences_of(40), row_group_size=4000)
    write_shards(folder / "shards", tokenizer_dir)
    write_shards(folder / "paper" / "shards", tokenizer_dir, masking={"dynamic": True})
    student = _write_models(folder, read_tokenizer(tokenizer_dir))
    write_bf16_folder(folder / "export" / "bf16", student, read_tokenizer(tokenizer_dir))
    for name in ("onnx", "onnx-int8"):
        write_small_onnx(folder / "export" / name, str(folder / "student" / "model"))
    _write_raw_texts(folder)
    _write_bias_sets(folder / "bias")
    write_glue(folder / "glue")
    write_next_sentence_task(folder / "follows" / "glue")
    write_run(folder / "glue-teacher", "evaluate_glue", **glue(TEACHER_WEIGHTS))
    for task in GLUE_TASKS:
        shutil.copytree(folder / "teacher", folder / "glue-teacher" / "models" / task)
    write_line(folder / REPORT_RUNS)
    return folder


def _write_models(folder: Path, tokenizer_json: str) -> Any:
    """Write a teacher with twelve layers, because recipes name layers, and a student in a run folder."""
    torch.manual_seed(5)
    size = {"vocab_size": vocabulary_of(tokenizer_json).size, "max_position_embeddings": _POSITIONS}
    teacher = BertForMaskedLM(
        BertConfig(**size, hidden_size=24, num_hidden_layers=12, num_attention_heads=2, intermediate_size=48)
    )
    student = DistilBertForMaskedLM(DistilBertConfig(**size, dim=24, n_layers=6, n_heads=2, hidden_dim=48))
    for model, name in ((teacher, "teacher"), (student, "student/model")):
        (folder / name).mkdir(parents=True)
        save_model(model, folder / name, tokenizer_json)
    (folder / "export").mkdir()
    return student


def _write_raw_texts(folder: Path) -> None:
    raw = folder / "raw"
    (raw / "books").mkdir(parents=True)
    (raw / "books" / "a-book.txt").write_text("It was a day. Two people live in the old house.\n" * 30)
    texts = (f"It was a day. Two people live in the old house {number}.\n" for number in range(250))
    (folder / "my-texts.txt").write_text("".join(texts))
    dump = write_multistream(raw, [page(number) for number in range(1, 6)])
    shutil.copy(dump.uri, folder / f"{_DUMP}.xml.bz2")
    (folder / f"{_DUMP.removesuffix('-multistream')}.xml.bz2").write_bytes(bz2.compress(b"<mediawiki/>"))
    Path(dump.uri).rename(raw / f"{_DUMP}.xml.bz2")
    Path(dump.index).rename(raw / f"{_DUMP}-index.txt.bz2")
    (folder / "glue-text" / "text").mkdir(parents=True)
    (folder / "glue-text" / "text" / "rte.txt").write_text("It was a day.\nTwo people live here.\n\n" * 5)
    rows = rows_of(5)
    (folder / "rcds").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rcds" / "original_512_0.jsonl.xz").write_bytes(lzma.compress(lines.encode()))
    azure = [{"input_string": row["texts"].replace("<mask>", "[MASK]"), "title": row["masks"][0]} for row in rows]
    (folder / "small-test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in azure))


def _write_bias_sets(folder: Path) -> None:
    folder.mkdir()
    (folder / "crows_pairs_anonymized.csv").write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n"
        '0,"the old man was in rome.","the good man was in rome.",stereo,age\n'
    )
    labels = {"stereotype": "cat", "anti-stereotype": "dog", "unrelated": "three"}
    sentences = [{"gold_label": label, "sentence": f"there is a {word}."} for label, word in labels.items()]
    entry = {"target": "cat", "bias_type": "race", "context": "there is a BLANK.", "sentences": sentences}
    (folder / "dev.json").write_text(json.dumps({"data": {"intrasentence": [entry], "intersentence": []}}))
