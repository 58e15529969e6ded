"""How fast the distillation step is, against a plain loop in the manner of the original trainer.

PYTHONPATH=platform:. python benchmarks/distillation.py [--examples 8] [--length 128] [--steps 6] [--json FILE]

Both take the same batches of random ids through a teacher of BERT base's size and a student of DistilBERT's, with the
losses 5/2/1 at temperature 2, and update the student by AdamW after every 8 micro-steps. The plain loop makes the
logits of every token in both models, selects those of real tokens, and takes torch's own losses of them, in fp32. Ours
runs in fp32, in bf16, and in bf16 with the distillation loss at the masked tokens only. Each runs in a process of its
own, one after the other in turns, and the ratios are of the medians of their turns. Memory is the peak of the process;
beside it the part above what the models, gradients and moments of AdamW need.
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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.objective import DistillationStep, StepCounts, TensorBatch
from distilray.models.student import create_student
from distilray.training.optimizer import create_optimizer

ACCUMULATION, SEED, MASK_SHARE, MASK_ID = 8, 5, 0.15, 103
VARIANTS = {
    "plain fp32": (None, "all"),
    "ours fp32": (None, "all"),
    "ours bf16": (torch.bfloat16, "all"),
    "ours bf16, masked": (torch.bfloat16, "masked"),
}
GOALS = {"ours fp32": 1.35, "ours bf16": 4.0, "ours bf16, masked": 6.0}
Micro = Callable[[TensorBatch], Tensor]


def batches(examples: int, length: int, vocabulary: int, count: int) -> list[TensorBatch]:
    """Batches of full length with 15% of the tokens masked."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for _ in range(count):
        ids = torch.randint(1000, vocabulary, (examples, length), generator=generator)
        index = (
            torch.randperm(examples * length, generator=generator)[: int(MASK_SHARE * examples * length)].sort().values
        )
        labels = ids.flatten()[index]
        ids.view(-1)[index] = MASK_ID
        found.append(TensorBatch(ids, torch.ones_like(ids), torch.zeros_like(ids), index, labels))
    return found


def plain_micro(student: nn.Module, teacher: nn.Module) -> Micro:
    """One micro-step of the original: full logits of both models, then means over the selected ones."""
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
        own, other = (torch.masked_select(found.logits, selected).view(-1, vocabulary) for found in (ours, theirs))
        loss = 5.0 * kl(F.log_softmax(own / 2.0, dim=-1), F.softmax(other / 2.0, dim=-1)) * 4.0
        loss = loss + 2.0 * cross_entropy(ours.logits.view(-1, vocabulary), labels)
        real = batch.attention_mask.bool()[:, :, None].expand_as(ours.hidden_states[-1])
        h, g = (torch.masked_select(found.hidden_states[-1], real).view(-1, dim) for found in (ours, theirs))
        return loss + cosine(h, g, h.new_ones(len(h)))

    return micro


def our_micro(student: Any, teacher: Any, dtype: torch.dtype | None, positions: str) -> Micro:
    """One micro-step of `jobs.distill`."""
    losses = LossConfig.model_validate({"ce_positions": positions})
    step = DistillationStep(student, teacher if dtype is None else teacher.to(dtype), losses, dtype or torch.float32)

    def micro(batch: TensorBatch) -> Tensor:
        return step(batch, StepCounts(int(batch.attention_mask.sum()), len(batch.mask_index)))[0]

    return micro


def measure(variant: str, examples: int, length: int, steps: int) -> dict[str, float]:
    """Tokens per second, peak memory, and the loss of the first micro-batch."""
    torch.manual_seed(SEED)
    teacher = BertForMaskedLM(BertConfig()).eval().requires_grad_(False)
    student = create_student(teacher)[0].train()
    for model in (teacher, student):
        model.set_attn_implementation("eager")  # the faster one on a CPU, for both
    dtype, positions = VARIANTS[variant]
    micro = (
        plain_micro(student, teacher) if variant.startswith("plain") else our_micro(student, teacher, dtype, positions)
    )
    optimizer = create_optimizer(student, OptimizerConfig())
    made = batches(examples, length, teacher.config.vocab_size, ACCUMULATION)
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first, seconds = 0.0, []
    for step in range(steps + 1):
        started = time.perf_counter()
        for batch in made:
            loss = micro(batch)
            (loss / ACCUMULATION).backward()
            first = first or loss.item()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step:  # the first one warms up
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = ACCUMULATION * examples * length
    return {
        "tokens_per_s": tokens / statistics.median(seconds),
        "peak_mb": peak,
        "above_state_mb": peak - state,
        "first_loss": first,
    }


def in_a_process(variant: str, given: argparse.Namespace) -> dict[str, float]:
    """`measure` in a new process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--variant", variant, "--steps", str(given.steps)]
    command += ["--examples", str(given.examples), "--length", str(given.length)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def medians(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {key: statistics.median(row[key] for row in found) for key in found[0]}


def main() -> None:
    """Prints the figures of each variant and its ratios to the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="optimiser steps, of 8 micro-steps each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--json", type=Path, help="also writes the figures there")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(measure(given.variant, given.examples, given.length, given.steps)))
        return
    rounds: dict[str, list[dict[str, float]]] = {variant: [] for variant in given.only}
    for _ in range(given.rounds):
        for variant in given.only:
            rounds[variant].append(in_a_process(variant, given))
    figures = {variant: medians(found) for variant, found in rounds.items()}
    plain = figures.get("plain fp32", next(iter(figures.values())))
    for variant, found in figures.items():
        goal = f" (goal {GOALS[variant]}x)" if variant in GOALS else ""
        ratio = {key: found[key] / plain[key] for key in found}
        print(
            f"{variant}: {found['tokens_per_s']:,.0f} tokens/s, {ratio['tokens_per_s']:.2f}x{goal}; "
            f"peak {found['peak_mb']:,.0f} MB, {ratio['peak_mb']:.2f}x; "
            f"above the state {found['above_state_mb']:,.0f} MB, {ratio['above_state_mb']:.2f}x; "
            f"first loss {found['first_loss']:.4f}",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
