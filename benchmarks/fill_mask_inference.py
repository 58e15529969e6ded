"""Speed of fill-mask evaluation with Ray Data compared to plain batched forward passes on the same cores.

    make bench fill_mask_inference
    PYTHONPATH=platform:. python -m benchmarks.fill_mask_inference [CORPUS_DIR MODEL_DIR] [--rows N] [--passes N]

The input is a text file with a few sentences of a corpus (a run folder of `jobs.build_corpus`) per line, of which 15%
of the words are masked. The baseline has all token ids in memory, sorts them by length, and runs the encoder, the
masked-LM head at the masks, and the loss in one process with one thread per core. Our pipeline reads, masks and
tokenizes the file, scores it with one single-threaded actor per core, and writes results and completed pieces. Compares
the windows per second, with and without the startup of Ray and the models. Both use the same precision; passes
alternate, and the best of each is used.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.base import RayConfig
from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.pipeline import score_files
from distilray.evaluation.fill_mask.readers import data_files, read_examples
from distilray.evaluation.fill_mask.windows import Windows, encode_examples
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.precision import compute_dtype
from distilray.models.sources import localize
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.progress import Progress
from distilray.runtime.session import ray_session

SENTENCES, BATCH, PART_ROWS, LENGTH = 4, 32, 64, 256


def write_lines(corpus_dir: str, file: Path, rows: int) -> int:
    """Write lines of a few sentences each, and return their number."""
    lines: list[str] = []
    for documents in sorted(Path(corpus_dir, "documents").glob("*.parquet")):
        for sentences in pq.read_table(documents, columns=["sentences"]).column(0).to_pylist():
            lines += [" ".join(sentences[at : at + SENTENCES]) for at in range(0, len(sentences), SENTENCES)]
    kept = [line.replace("\n", " ") for line in lines if len(line.split()) > 20][:rows]
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return len(kept)


@torch.inference_mode()
def run_baseline(model: Any, windows: Windows, dtype: torch.dtype) -> float:
    """Run batched forward passes over all windows, and return the duration in seconds."""
    start = time.perf_counter()
    order = np.argsort(-windows.lengths, kind="stable")
    answers = np.split(np.arange(len(windows.window)), np.searchsorted(windows.window, np.arange(1, len(order))))
    total = 0.0
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        width = int(windows.lengths[rows].max())
        ids = np.zeros((len(rows), width), np.int64)
        index, labels = [], []
        for index_in_batch, row in enumerate(rows):
            own = windows.ids[windows.offsets[row] : windows.offsets[row + 1]]
            ids[index_in_batch, : len(own)] = own
            for answer in answers[row]:
                first, count = windows.bounds[answer], windows.pieces[answer]
                index += list(index_in_batch * width + windows.start[answer] + np.arange(count))
                labels += list(windows.labels[first : first + count])
        mask = torch.from_numpy((np.arange(width) < windows.lengths[rows][:, None]).astype(np.int64))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            hidden = encode(model, torch.from_numpy(ids), mask, None).flatten(0, 1)
        logits = vocabulary_logits(model, hidden[torch.tensor(index)].float())
        total += float(F.cross_entropy(logits, torch.tensor(labels), reduction="sum"))
    assert total > 0
    return time.perf_counter() - start


def with_ray(config: EvaluateFillMaskConfig, folder: Path, tokenizer_json: str, actors: int) -> tuple[float, float]:
    """Return the windows per second without and with the startup of the actors."""
    start = time.time()
    score_files(data_files(config.data), config, str(folder), tokenizer_json=tokenizer_json, max_length=LENGTH)
    end = time.time()
    files = sorted((folder / "pieces/chunks").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    windows = [json.loads(file.read_text())["windows"] for file in files]
    first = files[actors - 1].stat().st_mtime  # all actors have loaded the model and finished about one chunk each
    return sum(windows[actors:]) / (files[-1].stat().st_mtime - first), sum(windows) / (end - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus_dir", nargs="?", help="run of build_corpus (default: that of the quickstart)")
    parser.add_argument("model_dir", nargs="?", help="model folder (default: the student of the quickstart)")
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    corpus_dir = args.corpus_dir or quickstart_run("corpus")
    cores, model_dir = torch.get_num_threads(), localize(args.model_dir or quickstart_run("student"))
    tokenizer_json, dtype = read_tokenizer(model_dir), compute_dtype(args.precision, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as work, ray_session(RayConfig(num_cpus=cores)):
        file = Path(work, "lines.txt")
        data = {"path": str(file), "chunk_rows": PART_ROWS, "left_to_right": False, "max_length": LENGTH}
        config = EvaluateFillMaskConfig.model_validate(
            {"run_dir": work, "student_dir": model_dir, "data": data, "precision": args.precision, "device": "cpu"}
        )
        texts = write_lines(corpus_dir, file, args.rows)
        rows = list(read_examples(data_files(config.data)[0], config.data, seed=config.seed))
        examples = [row for row in rows if isinstance(row, MaskedExample)]
        windows, _, _ = encode_examples(examples, tokenizer_json, max_length=LENGTH)
        model, rates, ours = load_masked_lm(model_dir), [], []
        with Progress("fill_mask_inference", total=2 * args.passes, unit="measurements") as progress:
            for number in range(args.passes):
                rates.append(len(windows.lengths) / run_baseline(model, windows, dtype))
                progress.advance_to(2 * number + 1)
                ours.append(with_ray(config, Path(work, f"run-{number}"), tokenizer_json, cores))
                progress.advance_to(2 * number + 2)
    baseline, steady, whole = max(rates), max(rate for rate, _ in ours), max(rate for _, rate in ours)
    print(
        f"{texts:,} texts, {len(windows.lengths):,} windows, {len(windows.ids):,} tokens, "
        f"{len(windows.labels):,} masks; {cores} cores, {dtype}"
    )
    peer = "plain forward passes"
    results = [
        Result("Ray Data", steady, "windows/s", ">= 0.85", peer, baseline),
        Result("Ray Data with its startup", whole, "windows/s", "", peer, baseline),
    ]
    print(table(results), flush=True)


if __name__ == "__main__":
    main()
