"""The table of an ablation: what a student is worth without one of its losses, beside the paper's (table 4)."""

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.reporting.metrics import read_metrics
from distilray.training.reporter import HELDOUT_FILE

FULL = "full"
# Change of the macro score on GLUE against the full loss (DistilBERT paper, table 4).
PAPER: Mapping[str, float] = {"no-kl": -2.96, "no-cosine": -1.46, "no-mlm": -0.31, "random-init": -3.69}
VARIANTS: Sequence[str] = (FULL, *PAPER)


def variants(text: str) -> list[str]:
    """The variants that a comma-separated list names.

    Raises:
        InputError: one that there is not.
    """
    names = text.split(",")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise InputError(f"'{unknown[0]}' is no variant; --only takes {', '.join(VARIANTS)}")
    return names


def last_scores(run_dir: str) -> Mapping[str, float]:
    """The held-out scores at the end of a run.

    Raises:
        InputError: the run has none.
    """
    rows = read_metrics(storage.join(run_dir, HELDOUT_FILE))
    if not rows:
        raise InputError(f"{run_dir}: no {HELDOUT_FILE}; encode the corpus with a heldout_fraction above 0")
    return rows[-1]


def ablation_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each variant; changes are against the full loss, if it is among them.

    Args:
        scores: held-out scores by variant.
    """
    table = Table(title="held-out scores without one thing each")
    headings = ("", "hit@1", "change", "teacher's best token", "change", "masked LM perplexity", "GLUE in the paper")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    full = scores.get(FULL)
    for variant, found in scores.items():
        cells = [variant]
        for key in ("hit@1", "agreement"):
            change = "" if full is None or variant == FULL else f"{100 * (found[key] - full[key]):+.1f}"
            cells += [f"{100 * found[key]:.1f}", change]
        cells += [f"{math.exp(found['mlm']):.1f}", f"{PAPER[variant]:+.2f}" if variant in PAPER else ""]
        table.add_row(*cells)
    return table
