"""Speed of the model without a server: reads arguments as JSON from stdin, and writes results to stdout.

PYTHONPATH=platform:. python -m benchmarks.serving_load.in_process < arguments.json

`raw`: forward passes of transformers' modules on tokenized batches of similar length, with the masked-LM head at the
masks. `engine`: `FillMask.fill_encoded` for the same texts in their original order. `direct`: `FillMask.fill` for one
text at a time.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch

from benchmarks.serving_load.measurements import percentiles
from benchmarks.serving_load.traffic import TOP_K
from distilray.inference.encoding import pad_batch
from distilray.inference.tasks.fill_mask import EncodedFillMaskQuery, FillMask, FillMaskQuery
from distilray.models.heads import vocabulary_logits
from distilray.models.masked_lm import encode, load_masked_lm
from distilray.models.precision import DTYPES

BATCH = 32
_WARM_UP = 5


def run_in_process(
    what: str, model_dir: str, texts: Sequence[str], *, seconds: float, threads: int, precision: str = "auto"
) -> dict[str, Any]:
    """Run `raw`, `engine` or `direct` in a new process."""
    arguments = {
        "what": what,
        "model_dir": model_dir,
        "texts": texts,
        "seconds": seconds,
        "threads": threads,
        "precision": precision,
    }
    command = [sys.executable, "-m", "benchmarks.serving_load.in_process"]
    done = subprocess.run(command, input=json.dumps(arguments), stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def raw(model_dir: str, texts: Sequence[str], seconds: float, precision: str) -> dict[str, Any]:
    """Measure the texts per second of the forward pass alone."""
    queries = FillMask.load(model_dir, precision="fp32").encode([FillMaskQuery(text, TOP_K) for text in texts])
    model = load_masked_lm(model_dir).to(DTYPES[precision])
    ordered = sorted(queries, key=lambda query: -len(query.input_ids))
    batches = [_padded(ordered[at : at + BATCH]) for at in range(0, len(ordered), BATCH)]

    def forward(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> int:
        input_ids, attention_mask, masks = batch
        hidden = encode(model, input_ids, attention_mask, None).flatten(0, 1)
        vocabulary_logits(model, hidden[masks])
        return len(input_ids)

    return {"texts_per_s": _rate(batches, forward, seconds)}


def engine(model_dir: str, texts: Sequence[str], seconds: float, precision: str) -> dict[str, Any]:
    """Measure the texts per second of the inference engine."""
    model = FillMask.load(model_dir, precision=precision)
    queries = model.encode([FillMaskQuery(text, TOP_K) for text in texts])
    batches = [queries[at : at + BATCH] for at in range(0, len(queries), BATCH)]
    return {"texts_per_s": _rate(batches, lambda batch: len(model.fill_encoded(batch)), seconds)}


def direct(model_dir: str, texts: Sequence[str], seconds: float, precision: str) -> dict[str, Any]:
    """Measure the latency of calls with one text each."""
    model = FillMask.load(model_dir, precision=precision)
    for text in texts[:_WARM_UP]:
        model.fill([text], top_k=TOP_K)
    durations = []
    end = time.perf_counter() + seconds
    for text in cycle(texts):
        start = time.perf_counter()
        model.fill([text], top_k=TOP_K)
        durations.append(time.perf_counter() - start)
        if time.perf_counter() >= end:
            break
    return {"requests": len(durations), "latency_ms": percentiles(durations)}


def _padded(queries: Sequence[EncodedFillMaskQuery]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids, attention_mask = map(torch.from_numpy, pad_batch([query.input_ids for query in queries], 0))
    length = ids.shape[1]
    masks = [row * length + position for row, query in enumerate(queries) for position in query.mask_positions]
    return ids, attention_mask, torch.tensor(masks)


@torch.inference_mode()
def _rate(batches: Sequence[Any], work: Callable[[Any], int], seconds: float) -> float:
    """Return the texts per second over complete rounds of all batches, so that all lengths have equal weight."""
    for batch in batches[:: max(1, len(batches) // _WARM_UP)]:
        work(batch)
    start, texts = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        texts += sum(work(batch) for batch in batches)
    return texts / (time.perf_counter() - start)


def main() -> None:
    args = json.load(sys.stdin)
    torch.set_num_threads(args["threads"])
    measure = {"raw": raw, "engine": engine, "direct": direct}[args["what"]]
    json.dump(measure(args["model_dir"], args["texts"], args["seconds"], args["precision"]), sys.stdout)


if __name__ == "__main__":
    main()
