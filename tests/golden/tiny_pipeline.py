"""Pipeline of a few seconds, from a Wikipedia dump to GLUE scores, which runs the real jobs without Ray.

The weights depend on the processor (the kernels for its vector instructions) and the version of torch. On one machine
they are bitwise reproducible, because each job uses one thread.
"""

import bz2
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM

from distilray.config.sample import resolve_sample
from distilray.models.masked_lm import save_model
from distilray.models.processor import cpu_features, cpu_name
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from tests.golden.ray_in_process import ray_in_process
from tests.golden.record import run_hashes
from tests.tiny.corpus import sentences_of
from tests.tiny.recipes import write_recipe
from tests.tiny.search import write_next_sentence_task

_PAGES, _MAX_CHARS = 100, 60_000  # the first 100 pages of the sample that are not longer
_SHARDS = {
    "corpus_dir": "{folder}/corpus",
    "tokenizer_dir": "{folder}/tokenizer",
    "max_seq_length": 64,
    "heldout_fraction": 0.2,
    "chunk_mb": 0.05,
    "rows_per_shard": 500,
}
_ON_CPU = {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1}
_TRAINING = {
    "shards_dir": "{folder}/shards",
    "max_steps": 5,
    "batch_size": 8,
    "micro_batch_size": 3,
    "precision": "fp32",
    "optimizer": {"learning_rate": 1e-3},
    "scaling": _ON_CPU,
    "intervals": {"evaluate_every_steps": 5, "heldout_examples": 30},
}
_STUDENT = {**_TRAINING, "teacher_dir": "{folder}/teacher"}
_EVERY_TERM = {"alpha_mse": 0.01, "alpha_hidden": 1.0, "alpha_attention": 1.0, "alpha_values": 1.0}
_FINE_TUNING = {"epochs": 4, "max_length": 32, "batch_size": 8, "learning_rate": 3e-3, "seeds": [1, 2]}
WITHOUT_MODELS = ("corpus", "tokenizer", "shards", "shards-paper")
# Job and recipe by run folder.
_STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "corpus": (
        "build_corpus",
        {
            "sources": [
                {"kind": "wikipedia", "path": "{folder}/dump.xml.bz2"},
                {"kind": "text", "name": "own", "path": "{folder}/text", "document_per": "file"},
            ],
            "filters": {"language": "en"},
            "duplicates": {"near": {}},
            "decontamination": {"paths": ["{folder}/glue-task"], "ngram_words": 4},
            "chunk_mb": 0.05,
        },
    ),
    "tokenizer": ("train_tokenizer", {"corpus_dir": "{folder}/corpus", "vocabulary_size": 1000}),
    "shards": ("encode_corpus", {**_SHARDS, "dupe_factor": 1, "masking": {"whole_words": True}}),
    "shards-paper": ("encode_corpus", {**_SHARDS, "mode": "paper"}),
    "teacher": ("train_teacher", {**_TRAINING, "encoder_dir": "{folder}/encoder"}),
    "teacher-cache": (
        "cache_teacher",
        {
            "shards_dir": "{folder}/shards",
            "teacher_dir": "{folder}/teacher",
            "top_k": 8,
            "positions": "masked",
            "precision": "fp32",
            "scaling": {"gpus_per_task": 0, "cpus_per_task": 1},
        },
    ),
    "student": ("distill", {**_STUDENT, "dropout": 0.1}),
    "student-of-cache": (
        "distill",
        {**_STUDENT, "teacher_cache_dir": "{folder}/teacher-cache", "losses": {"ce_positions": "masked"}},
    ),
    "student-every-term": ("distill", {**_STUDENT, "shards_dir": "{folder}/shards-paper", "losses": _EVERY_TERM}),
    "glue": (
        "evaluate_glue",
        {
            "model_dir": "{folder}/student",
            "glue_dir": "{folder}/glue-task",
            "tasks": ["follows"],
            "precision": "fp32",
            "fine_tuning": _FINE_TUNING,
            "scaling": {"use_gpu": False, "cpus_per_worker": 1},
        },
    ),
}


def pipeline_values(folder: Path) -> dict[str, Any]:
    """Run all stages, and return the hashes from their manifests and the properties that the weights depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_inputs(folder)
    run_stages(folder, list(_STAGES))
    processor = [torch.__version__, torch.backends.cpu.get_cpu_capability(), cpu_name(), *cpu_features()]
    return {"processor": " ".join(processor), **{name: run_hashes(folder / name) for name in _STAGES}}


def run_stages(folder: Path, names: Sequence[str]) -> None:
    """Run stages with inputs in a folder."""
    with ray_in_process():
        for name, (job, values) in _STAGES.items():
            if job == "train_teacher" and not (folder / "encoder").is_dir():
                _write_encoder(folder / "encoder", str(folder / "tokenizer"))
            if name in names:
                _run(job, folder / name, json.loads(json.dumps(values).replace("{folder}", str(folder))))


def _run(job: str, run: Path, values: dict[str, Any]) -> None:
    recipes = run.with_name(f"{run.name}-recipe")
    recipes.mkdir()
    recipe = write_recipe(recipes, run_dir=str(run), **values)
    assert importlib.import_module(f"jobs.{job}").main(["--recipe", recipe]) == 0


def _write_inputs(folder: Path) -> None:
    """Write a dump of real pages, texts with repetitions and a quotation, and a task in the format of GLUE."""
    with bz2.open(resolve_sample("sample:wikipedia"), "rt", encoding="utf-8") as file:
        pages = [page for page in file.read().split("</page>") if len(page) <= _MAX_CHARS][:_PAGES]
    # Level 1 has blocks of 100 kB, so that the dump is read in several chunks.
    dump = bz2.compress("</page>".join([*pages, "\n</mediawiki>\n"]).encode(), compresslevel=1)
    (folder / "dump.xml.bz2").write_bytes(dump)
    write_next_sentence_task(folder / "glue-task")
    quoted = (folder / "glue-task" / "Follows" / "dev.tsv").read_text().splitlines()[1].split("\t")[1]
    texts = [" ".join(map(str.capitalize, document)) for document in sentences_of(8, seed=7)]
    texts += [texts[0], f"{texts[0]} One more.", f"{texts[1]} {quoted}"]
    (folder / "text").mkdir()
    for number, text in enumerate(texts):
        (folder / "text" / f"{number:02d}.txt").write_text(text)


def _write_encoder(folder: Path, tokenizer_dir: str) -> None:
    """Write a BERT of four layers with random weights."""
    tokenizer_json = read_tokenizer(tokenizer_dir)
    torch.manual_seed(3)
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    vocabulary = vocabulary_of(tokenizer_json).size
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=64, initializer_range=0.15, **size)
    folder.mkdir()
    save_model(BertForMaskedLM(config), folder, tokenizer_json)
