"""distilray: distill a BERT teacher into a student with half its layers, and serve it, on Ray.

Each stage of the pipeline is a function that writes a run folder, or returns immediately if the run is complete:

    import distilray as dr

    shards = dr.encode(corpus=dr.build_corpus(sources=[...], run_dir="corpus"), tokenizer="hub:...", run_dir="shards")
    student = dr.distill(teacher="hub:google-bert/bert-base-uncased", shards=shards, run_dir="student")
    student.model_dir, student.scores
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distilray.stages import Run

__version__ = "0.2.0"
_SHORT_NAMES = {"encode": "encode_corpus"}


def __getattr__(name: str) -> Callable[..., Run]:
    """Return the function of a stage, which takes the keys of its recipe as keyword arguments."""
    if name.startswith("_"):  # the import system looks up many such names
        raise AttributeError(name)
    stages = importlib.import_module("distilray.stages")
    if (stage := _SHORT_NAMES.get(name, name)) not in stages.STAGES:
        raise AttributeError(f"module 'distilray' has no attribute '{name}'; its stages are {', '.join(stages.STAGES)}")

    def function(**values: Any) -> Run:
        run: Run = stages.run_stage(stage, **values)
        return run

    keys = importlib.import_module("distilray.config.recipe_keys").format_keys(stages.STAGES[stage].config_class)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Run the stage unless it is complete, and return its run.\n\n{keys}"
    return function


def __dir__() -> list[str]:
    """Return the names of the module and its stages, for completion in notebooks."""
    return [*globals(), *_SHORT_NAMES, *importlib.import_module("distilray.stages").STAGES]
