"""Speed and memory of the distillation step compared to a plain loop similar to the original trainer.

    make bench distillation
    PYTHONPATH=platform:. python -m benchmarks.distillation [--rounds 3] [--steps 3] [--json FILE]

Both process the same batches of random ids with a teacher of the size of BERT base and a student of DistilBERT's size,
with loss weights 5/2/1 and temperature 2, and update the student with AdamW after every 8 micro-steps. The plain loop
computes the logits of all tokens in both models, selects those of real tokens, and applies torch's own losses in fp32.
Our step runs in fp32, in bf16, and in bf16 with the distillation loss at masked tokens only. All variants run
alternately in separate processes, and ratios are computed from medians. Memory is the peak of the process; the part
above the models, gradients and AdamW moments is listed separately.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from benchmarks.results import Result, table
from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.models.student import create_student
from distilray.pretraining_data.batches import Batch
from distilray.runtime.progress import Progress
from distilray.training.optimizer import create_optimizer

ACCUMULATION, WARM_UP = 8, 2  # micro-steps of an optimizer step, and before the measurement
SEED, MASK_SHARE, MASK_ID = 5, 0.15, 103
VARIANTS = {
    "plain fp32": (None, "all"),
    "ours fp32": (None, "all"),
    "ours bf16": (torch.bfloat16, "all"),
    "ours bf16, masked": (torch.bfloat16, "masked"),
}
GOALS = {"ours fp32": ">= 1.35", "ours bf16": ">= 4", "ours bf16, masked": ">= 6"}
Micro = Callable[[TensorBatch], Tensor]


def batches(examples: int, length: int, vocabulary: int, count: int) -> list[TensorBatch]:
    """Create batches of full length with 15% of the tokens masked."""
    generator = torch.Generator().manual_seed(SEED)
    result = []
    for _ in range(count):
        ids = torch.randint(1000, vocabulary, (examples, length), generator=generator).numpy()
        count = int(MASK_SHARE * examples * length)
        index = np.sort(torch.randperm(examples * length, generator=generator)[:count].numpy())
        labels = ids.flat[index]
        ids.flat[index] = MASK_ID
        result.append(TensorBatch.of(Batch(ids, np.ones_like(ids), np.zeros_like(ids), index, labels)))
    return result


def plain_micro(student: nn.Module, teacher: nn.Module) -> Micro:
    """Return a micro-step of the original trainer: full logits of both models, then means over selected tokens."""
    kl, cosine = nn.KLDivLoss(reduction="batchmean"), nn.CosineEmbeddingLoss(reduction="mean")
    cross_entropy = nn.CrossEntropyLoss(ignore_index=-100)

    def micro(batch: TensorBatch) -> Tensor:
        labels = torch.full_like(batch.input_ids, -100).view(-1).index_put((batch.mask_index,), batch.mask_labels)
        inputs: Any = {"attention_mask": batch.attention_mask, "output_hidden_states": True}
        ours = student(batch.input_ids, **inputs)
        with torch.no_grad():
            theirs = teacher(batch.input_ids, **inputs)
        vocabulary, dim = ours.logits.shape[-1], ours.hidden_states[-1].shape[-1]
        selected = batch.attention_mask.bool()[:, :, None].expand_as(ours.logits)
        own, other = (torch.masked_select(outputs.logits, selected).view(-1, vocabulary) for outputs in (ours, theirs))
        loss = 5.0 * kl(F.log_softmax(own / 2.0, dim=-1), F.softmax(other / 2.0, dim=-1)) * 4.0
        loss = loss + 2.0 * cross_entropy(ours.logits.view(-1, vocabulary), labels)
        real = batch.attention_mask.bool()[:, :, None].expand_as(ours.hidden_states[-1])
        h, g = (torch.masked_select(outputs.hidden_states[-1], real).view(-1, dim) for outputs in (ours, theirs))
        return loss + cosine(h, g, h.new_ones(len(h)))

    return micro


def our_micro(student: Any, teacher: Any, dtype: torch.dtype | None, positions: str) -> Micro:
    """Return a micro-step of `jobs.distill`."""
    losses = LossConfig.model_validate({"ce_positions": positions})
    step = DistillationLoss(student, teacher if dtype is None else teacher.to(dtype), losses, dtype or torch.float32)

    def micro(batch: TensorBatch) -> Tensor:
        return step(batch, LossDivisors(int(batch.attention_mask.sum()), len(batch.mask_index)))[0]

    return micro


def measure(variant: str, examples: int, length: int, steps: int) -> dict[str, float]:
    """Return tokens per second, peak memory, and the loss of the first micro-batch."""
    torch.manual_seed(SEED)
    teacher = BertForMaskedLM(BertConfig()).eval().requires_grad_(False)
    student = create_student(teacher)[0].train()
    for model in (teacher, student):
        model.set_attn_implementation("eager")  # faster on a CPU for both
    dtype, positions = VARIANTS[variant]
    micro = (
        plain_micro(student, teacher) if variant.startswith("plain") else our_micro(student, teacher, dtype, positions)
    )
    optimizer = create_optimizer(student, OptimizerConfig())
    micro_batches = batches(examples, length, teacher.config.vocab_size, ACCUMULATION)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first, seconds = 0.0, []
    for batch in micro_batches[:WARM_UP]:
        micro(batch).backward()
    student.zero_grad(set_to_none=True)
    for _ in range(steps):
        start = time.perf_counter()
        for batch in micro_batches:
            loss = micro(batch)
            (loss / ACCUMULATION).backward()
            first = first or loss.item()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = ACCUMULATION * examples * length
    return {
        "tokens_per_s": tokens / statistics.median(seconds),
        "peak_mb": peak,
        "above_state_mb": peak - state,
        "first_loss": first,
    }


def measure_in_process(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """Run `measure` in a new process, to get its own peak memory."""
    command = [sys.executable, "-m", "benchmarks.distillation", "--variant", variant, "--steps", str(args.steps)]
    command += ["--examples", str(args.examples), "--length", str(args.length)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, float] = json.loads(out.splitlines()[-1])
    return figures


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps, of 8 micro-steps each")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.examples, args.length, args.steps)))
        return
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in args.only}
    with Progress("distillation", total=args.rounds * len(args.only), unit="runs") as progress:
        for number in range(args.rounds * len(args.only)):
            variant = args.only[number % len(args.only)]
            progress.advance_to(number, variant)
            rounds[variant].append(measure_in_process(variant, args))
    figures = {variant: medians(rows) for variant, rows in rounds.items()}
    plain = figures.get("plain fp32", next(iter(figures.values())))
    results = [
        Result(f"{variant}: {what}", figures[variant][key], unit, goal, "plain fp32", plain[key])
        for variant in figures
        for what, key, unit, goal in (
            ("speed", "tokens_per_s", "tokens/s", GOALS.get(variant, "")),
            ("peak memory", "peak_mb", "MB", ""),
            ("above models and optimizer", "above_state_mb", "MB", ""),
            ("first loss", "first_loss", "", ""),
        )
        if figures[variant] is not plain
    ]
    print(table(results), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
