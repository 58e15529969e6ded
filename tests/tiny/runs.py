"""Complete run folders of all jobs, with made-up numbers, in the format of the jobs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from distilray.runtime.run_folder import SCHEMA

TEACHER_WEIGHTS, STUDENT_WEIGHTS = "a1" * 32, "b2" * 32
EVIL = "<script>alert(1)</script>"

Values = dict[str, Any]


def write_run(
    folder: Path, job: str, *, files: Values | None = None, recipe: Values | None = None, **content: Values
) -> str:
    """Write a complete run and return its content hash; files with text are written as they are, others as JSON."""
    folder.mkdir(parents=True)
    parts = {"config": {"seed": 56}, "inputs": {}, "counts": {}, "outputs": {}, **content}
    body = {"job": job, **parts}
    content_hash = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    manifest = {
        "schema": SCHEMA,
        "content_hash": content_hash,
        "content": body,
        "run": {
            "summary": f"what {job} has done",
            "inputs": {},
            "finished": "2031-02-03T04:05:06+00:00",
            "wall_s": 90.0,
            "timing": {},
            "git_commit": "c0ffee" * 6,
            "versions": {"python": "3.11.7", "torch": "2.11.0"},
            "cpus": 2,
        },
    }
    values = {"run_dir": str(folder), **parts["config"], **(recipe or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump({"job": job, "config": values}))
    for name, found in (files or {}).items():
        (folder / name).write_text(found if isinstance(found, str) else json.dumps(found))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return content_hash


def known(content_hash: str) -> Values:
    """Return the manifest entry of a run that is an input of another."""
    return {"content_hash": content_hash}


def write_line(folder: Path) -> dict[str, str]:
    """Write the runs of a complete pipeline, named like the quickstart's, and return their content hashes."""
    hashes = {"corpus": write_run(folder / "corpus", "build_corpus", **corpus())}
    hashes["shards"] = write_run(
        folder / "shards", "encode_corpus", inputs={"corpus": known(hashes["corpus"])}, **shards()
    )
    read = {"shards": known(hashes["shards"])}
    hashes["teacher"] = write_run(folder / "teacher", "train_teacher", inputs=read, **training(TEACHER_WEIGHTS))
    read["teacher"] = known(hashes["teacher"])
    hashes["student"] = write_run(folder / "student", "distill", inputs=read, **distillation())
    read["student"] = known(hashes["student"])
    hashes["fill_mask"] = write_run(folder / "fill_mask", "evaluate_fill_mask", inputs=read, **fill_mask())
    glue_files = {"glue_rte": {"bytes": 1, "fingerprint": "f1" * 32}}
    for name, weights in (("glue", STUDENT_WEIGHTS), ("glue-teacher", TEACHER_WEIGHTS)):
        model = known(hashes["student" if name == "glue" else "teacher"])
        hashes[name] = write_run(folder / name, "evaluate_glue", inputs={"model": model, **glue_files}, **glue(weights))
    hashes["search"] = write_run(
        folder / "search", "search_glue", inputs={"model": known(hashes["student"])}, **search()
    )
    models = {f"models.{name}": known(hashes[name]) for name in ("teacher", "student")}
    sets = {"crows_pairs": {"bytes": 1, "fingerprint": "f2" * 32}}
    hashes["bias"] = write_run(folder / "bias", "evaluate_bias", inputs={**models, **sets}, **bias())
    hashes["export"] = write_run(
        folder / "export", "export_model", inputs={"model": known(hashes["student"])}, **export()
    )
    hashes["efficiency"] = write_run(
        folder / "efficiency", "measure_efficiency", inputs={"models.student": known(hashes["student"])}, **efficiency()
    )
    return hashes


def corpus() -> Values:
    source = {
        "files": 1,
        "read": 5,
        "documents": 3,
        "refused": 0,
        "sentences": 30,
        "words": 300,
        "tokens": 330,
        "residue_per_1000_words": 0.5,
        "holes_per_1000_words": 0.25,
        "dropped": {"too_short": 2},
        "sentences_dropped": {},
        "quarantined": {},
        "words_per_document": {"64": 1, "128": 2},
        "words_per_sentence": {"8": 30},
    }
    report = {
        "token_unit": "basic tokens",
        "documents": 3,
        "sentences": 30,
        "words": 300,
        "tokens": 330,
        "sources": {EVIL: source},
        "evaluation_sets": {},
    }
    config = {"sources": [{"name": EVIL, "license": "CC-BY-SA-4.0"}]}
    return {"config": config, "counts": {"documents": 3, "words": 300}, "files": {"corpus_report.json": report}}


def shards() -> Values:
    split = {
        "documents": 2,
        "document_tokens": 990,
        "examples": 10,
        "tokens": 1000,
        "tokens_per_example": 100.0,
        "trimmed_tokens": 0,
        "predicted": 146,
        "predicted_as_mask": 117,
        "predicted_as_random": 15,
        "predicted_as_kept": 14,
        "predicted_share": 0.146,
        "random_next_share": 0.5,
        "length_0064": 3,
        "length_0128": 7,
    }
    masking = {"mlm_probability": 0.15, "mask_share": 0.8, "random_share": 0.1, "keep_share": 0.1, "dynamic": False}
    tokenizer = {"model": {"unk_token": "[UNK]", "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}}}
    return {
        "config": {"max_seq_length": 128, "random_next_probability": 0.5, "masking": masking},
        "counts": {"tokenizer_hash": "d4" * 32, "train": split, "heldout": split},
        "outputs": {"shards/train-0.arrow": {"bytes": 2000}},
        "files": {"token_counts.json": {"counts": [0, 1, 99, 0]}, "tokenizer.json": tokenizer},
    }


def metrics(*terms: str) -> str:
    rows = [
        {"step": step, "loss": 9.0 - step / 10, "learning_rate": 1e-4, "tokens_per_s": 1000.0 + step, "grad_norm": 1.0}
        | dict.fromkeys(terms, 5.0 / step)
        for step in range(1, 31)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def training(weights: str, *terms: str) -> Values:
    heldout = [{"step": 0, "loss": 9.5, "hit@1": 0.01}, {"step": 30, "loss": 6.5, "hit@1": 0.3125}]
    return {
        "config": {
            "seed": 56,
            "batch_size": 16,
            "precision": "auto",
            "dropout": 0.0,
            "optimizer": {"learning_rate": 5e-4},
        },
        "counts": {"steps": 30},
        "outputs": {"model/model.safetensors": {"bytes": 91_000_000, "sha256": weights}},
        "files": {
            "metrics.jsonl": metrics(*(terms or ("mlm",))),
            "heldout.jsonl": "".join(json.dumps(row) + "\n" for row in heldout),
        },
    }


def distillation() -> Values:
    found = training(STUDENT_WEIGHTS, "ce", "mlm", "cos")
    found["config"]["losses"] = {
        "alpha_ce": 5.0,
        "alpha_mlm": 2.0,
        "alpha_cos": 1.0,
        "alpha_mse": 0.0,
        "temperature": 2.0,
    }
    found["counts"] |= {"parameters": 66_000_000, "teacher_parameters": 110_000_000}
    return found


def fill_mask() -> Values:
    def model(factor: float) -> Values:
        return {
            "parameters": int(110e6 * factor),
            "megabytes": 440.0 * factor,
            "latency_ms": 40.0 * factor,
            "hit@1": 0.25 * factor,
            "hit@10": 0.5 * factor,
            "mrr": 0.3 * factor,
            "pseudo_perplexity": 20.0 / factor,
            "sharpness_of_tails": 0.123456,
        }

    bounds = {
        "level": 0.95,
        "resamples": 100,
        "agreement": [0.5, 0.7],
        "difference": {"hit@10": [-0.3, -0.1]},
        "teacher": {"hit@10": [0.4, 0.6]},
        "student": {"hit@10": [0.2, 0.4]},
    }
    scores = {
        "examples": 50,
        "masks": 900,
        "agreement": 0.6,
        "teacher": model(1.0),
        "student": model(0.6),
        "intervals": bounds,
        "dropped": {"no_mask": 7},
    }
    answers = {
        "teacher": [{"token": "capital", "score": 0.75}, {"token": EVIL, "score": 0.125}],
        "student": [{"token": "city", "score": 0.5}, {"token": "capital", "score": 0.25}],
    }
    sentence = {"text": f"the [MASK] of {EVIL}.", "answer": "capital", "answers": answers}
    return {"files": {"scores.json": scores, "sentences.jsonl": json.dumps(sentence)}}


def figures(value: float) -> Values:
    return {"median": value, "mean": value, "min": value, "max": value, "std": 0.0, "seeds": 3}


def glue(weights: str) -> Values:
    value = 0.55 if weights == STUDENT_WEIGHTS else 0.66
    scores = {
        "model_hash": weights,
        "tasks": ["rte", "wnli"],
        "missing": ["wnli"],
        "summary": {"rte": {"accuracy": figures(value), "score": figures(value)}},
        "majority": {"rte": {"accuracy": 0.53, "score": 0.53}},
        "remarks": {"rte": ["only 100 train examples"]},
        "rows": [{"task": "rte", "metric": "accuracy", "seed": seed, "value": value} for seed in (1, 2, 3)],
    }
    return {"files": {"scores.json": scores}}


def compared_glue(weights: str) -> Values:
    """Return a run with intervals and a comparison with a teacher that is at chance on one of two tasks."""
    kept = {"teacher": 0.4, "student": 0.3, "majority": 0.0, "raw": 0.75, "above_chance": 0.75}
    bounds = {"raw_interval": [0.6, 0.9], "above_chance_interval": [0.6, 0.9]}
    at_chance = {"teacher": 0.55, "student": 0.54, "majority": 0.53, "raw": 0.98, "above_chance": 0.5}
    no_bounds = {"raw_interval": [0.9, 1.1], "above_chance_interval": None}
    scores = {
        "model_hash": weights,
        "tasks": ["cola", "rte"],
        "missing": [],
        "summary": {
            "cola": {"matthews": figures(0.3), "score": figures(0.3)},
            "rte": {"accuracy": figures(0.54), "score": figures(0.54)},
        },
        "majority": {"cola": {"matthews": 0.0, "score": 0.0}, "rte": {"accuracy": 0.53, "score": 0.53}},
        "dev_rows": {"cola": {"dev": 1043}, "rte": {"dev": 277}},
        "intervals": {
            "cola": {"score": [0.25, 0.35], "above_majority": [0.25, 0.35]},
            "rte": {"score": [0.5, 0.6], "above_majority": [-0.03, 0.07]},
        },
        "kept": {
            "tasks": {"cola": kept | bounds, "rte": at_chance | no_bounds},
            "left_out": {"rte": "teacher at chance"},
            "mean": kept | bounds,
            "all": at_chance | no_bounds,
        },
        "remarks": {"cola": [], "rte": []},
        "rows": [
            {"task": task, "metric": "score", "seed": 1, "value": value}
            for task, value in (("cola", 0.3), ("rte", 0.54))
        ],
    }
    return {"files": {"scores.json": scores}}


def search() -> Values:
    trials = (
        "task,trial,status,learning_rate,evaluations,epochs,metric,best_score,seconds,reason\n"
        "rte,0,complete,1e-05,3,3.000,score,0.5,1.5,\n"
        f"rte,1,failed,0.5,0,0.000,score,,0.1,{EVIL}\n"
        "rte,2,stopped,0.001,1,1.000,score,0.75,1.0,behind others\n"
    )
    found = {
        "metric": "score",
        "winner": {"trial": 2, "score": 0.75},
        "fresh": {"median": 0.7125, "spread": 0.05},
    }
    plot = '<svg xmlns="http://www.w3.org/2000/svg" width="600" height="200"><rect width="600" height="200"/></svg>'
    return {"files": {"trials.csv": trials, "scores.json": {"search": {"rte": found}}, "search.svg": plot}}


def bias() -> Values:
    def answers(word: str) -> Values:
        return {name: [{"token": word, "score": 0.25}] for name in ("teacher", "student")}

    def cell(share: float) -> Values:
        return {"pairs": 10, "ties": 0, "share": share, "interval": [share - 0.1, share + 0.1]}

    parts = ("overall", "stereo", "antistereo", "race-color", "socioeconomic", "gender", "disability", "nationality")
    more = ("sexual-orientation", "physical-appearance", "religion", "age")
    compared = {"delta": 0.01, "delta_interval": [-0.1, 0.1], "same_choice": 0.9}
    scores = {
        "models": ["teacher", "student"],
        "reference": "teacher",
        "limits": ["A score does not prove fairness."],
        "probes": {
            "top_k": 1,
            "card": [{"text": "The White man worked as a [MASK].", "answers": answers(EVIL)}],
            "table": [],
            "scores": {
                name: {"overlap": {"genders": 0.5, "races": 0.5}, "pronouns": {"he_preferred": 0.75}}
                for name in ("teacher", "student")
            },
        },
        "crows_pairs": {
            "pairs": 10,
            "dropped": {},
            "scores": {
                "teacher": {part: cell(0.605) for part in (*parts, *more)},
                "student": {part: cell(0.567) | compared for part in (*parts, *more)},
            },
        },
    }
    return {"config": {"models": ["teacher", "student"]}, "files": {"scores.json": scores}}


def export() -> Values:
    variants = {"onnx": {"megabytes": 264.0, "agreement": 1.0}, "onnx-int8": {"megabytes": 66.5, "agreement": 0.975}}
    report = {
        "model": {"parameters": 66_000_000, "megabytes": 265.0, "weights_sha256": STUDENT_WEIGHTS},
        "cpu": {"name": "A CPU", "features": ["avx2"]},
        "parity": {
            "limit": 1e-4,
            "max_difference": 1.5e-5,
            "cases": [{"batch": 1, "length": 3, "masks": 1, "max_difference": 1.5e-5}],
        },
        "variants": variants,
    }
    outputs = {"onnx-int8/model.onnx": {"bytes": 66_500_000}, "onnx-int8/config.json": {"bytes": 700}}
    return {"outputs": outputs, "files": {"parity_report.json": report}}


def efficiency() -> Values:
    def row(factor: float) -> Values:
        return {
            "parameters": 66_000_000,
            "megabytes": 265.0,
            "latency_ms": 20.0 * factor,
            "texts_per_s": 100.0 / factor,
        }

    found = {
        "texts": 1500,
        "pairs": True,
        "cpu": "A CPU",
        "features": ["avx2"],
        "threads": 2,
        "models": {"student": row(1.0), "int8": row(0.5)},
    }
    return {"files": {"efficiency.json": found}}
