"""The stages of the reproduction in the order in which they run: each a job, its recipe and what it changes there."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distilray.errors import InputError

FOLDER = "runs/reproduction"
STUDENT = "student"
AGAIN = "student-distilled-again"

# What a student is without: the paper's ablation (table 4).
ABLATIONS: Mapping[str, tuple[str, ...]] = {
    "no-kl": ("losses.alpha_ce=0.0",),
    "no-cosine": ("losses.alpha_cos=0.0",),
    "no-mlm": ("losses.alpha_mlm=0.0",),
    "random-init": ("student.initialisation=random",),
}
# What might bring a student nearer to its teacher.
TRIALS: Mapping[str, tuple[str, ...]] = {
    "longer": ("max_steps=600", "rhythm.evaluate_every_steps=600"),
    "lower-layers": ("student.layers=[0, 1, 2]",),
    "layer-wise": ("losses.alpha_hidden=1.0", "losses.alpha_values=1.0"),
}
# Fine-tunings of each task: of the two models of the claim, and of a variant. RTE takes longest and says least.
_SEEDS: Mapping[str, list[int]] = {"cola": [1, 2, 3], "sst2": [1, 2, 3], "rte": [1, 2, 3]}
_SEEDS_OF_VARIANT: Mapping[str, list[int]] = {"cola": [1, 2], "sst2": [1, 2], "rte": [1]}
# More than the search had: all rows of CoLA and RTE, further epochs and fresh seeds.
_SIZES = (
    "per_task.cola.max_train_examples=null",
    "per_task.cola.epochs=3",
    "per_task.sst2.max_train_examples=6000",
    "per_task.rte.epochs=3",
)
# Where a recipe names the folder of GLUE.
_GLUE = {
    "write_glue_text": "glue_dir={}",
    "build_corpus": "decontamination.paths=[{}]",
    "search_glue": "glue_dir={}",
}
_BESIDE_TEACHER = f"teacher_run_dir={FOLDER}/glue-teacher"


@dataclass(frozen=True)
class Stage:
    """One run of a job.

    Attributes:
        name: of the stage: the job's, and behind a dash the model that it makes or looks at.
        folder: of the run, below `FOLDER`.
        recipe: the path of one that an earlier stage has written; the job's own of the reproduction when None.
        changes: what the stage changes there, as on a command line.
    """

    name: str
    folder: str
    recipe: str | None = None
    changes: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        """The job's name."""
        return self.name.partition("-")[0]

    @property
    def run_dir(self) -> str:
        """Where the run lies."""
        return f"{FOLDER}/{self.folder}"

    def overrides(self, glue_dir: str) -> list[str]:
        """What is said to the job besides its recipe; recipes that an earlier stage has written know the folder."""
        glue = _GLUE.get(self.job)
        return [f"run_dir={self.run_dir}", *([] if glue is None else [glue.format(glue_dir)]), *self.changes]


def _line() -> Iterable[Stage]:
    yield Stage("write_glue_text", "glue-text")
    yield Stage("build_corpus", "corpus")
    yield Stage("encode_corpus", "shards")
    yield Stage("train_teacher", "teacher")
    yield Stage(f"distill-{STUDENT}", STUDENT)
    yield Stage("evaluate_fill_mask", "fill-mask")
    yield Stage("measure_efficiency", "efficiency")
    for model in ("teacher", STUDENT):
        yield Stage(f"search_glue-{model}", f"search-{model}", changes=(_of(model),))
    yield _glue("teacher", searched="teacher", seeds=_SEEDS)
    yield _glue(STUDENT, _BESIDE_TEACHER, seeds=_SEEDS)
    for name, changes in ABLATIONS.items():
        yield from _variant(name, changes)
    taught = f"distillation.teacher_run_dir={FOLDER}/glue-teacher"
    yield _glue(AGAIN, _BESIDE_TEACHER, taught, seeds=_SEEDS_OF_VARIANT, model=STUDENT)
    for name, changes in TRIALS.items():
        yield from _variant(name, changes)


def _variant(name: str, changes: tuple[str, ...]) -> Iterable[Stage]:
    yield Stage(f"distill-{name}", name, changes=changes)
    yield _glue(name, _BESIDE_TEACHER, seeds=_SEEDS_OF_VARIANT)


def _glue(
    name: str, *changes: str, seeds: Mapping[str, list[int]], model: str | None = None, searched: str = STUDENT
) -> Stage:
    """A fine-tuning of a model on all tasks, with what the search of a model has found."""
    with_seeds = [f"per_task.{task}.seeds={found}" for task, found in seeds.items()]
    recipe = f"{FOLDER}/search-{searched}/best.yaml"
    return Stage(f"evaluate_glue-{name}", f"glue-{name}", recipe, (_of(model or name), *changes, *_SIZES, *with_seeds))


def _of(model: str) -> str:
    return f"model_dir={FOLDER}/{model}"


def _with_report(stages: Sequence[Stage]) -> Iterable[Stage]:
    """The student is what the report is about; all others are in it as far as they are complete."""
    others = [stage.run_dir for stage in stages if stage.folder != STUDENT]
    return (*stages, Stage("write_report", "report", changes=(f"optional_paths={others}",)))


STAGES = tuple(_with_report(tuple(_line())))


def chosen(only: str | None, skip: str | None) -> list[Stage]:
    """The stages that one of comma-separated patterns fits, or all that none of others fits.

    Raises:
        InputError: a pattern that fits no stage, or nothing is left.
    """
    names = [stage.name for stage in STAGES]
    wanted, unwanted = (found.split(",") if found else [] for found in (only, skip))
    for pattern in [*wanted, *unwanted]:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"'{pattern}' is no stage; there are {', '.join(names)}")
    found = [stage for stage in STAGES if _fits(stage, wanted or ["*"]) and not _fits(stage, unwanted)]
    if not found:
        raise InputError("--only and --skip leave no stage to run")
    return found


def _fits(stage: Stage, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(stage.name, pattern) for pattern in patterns)
