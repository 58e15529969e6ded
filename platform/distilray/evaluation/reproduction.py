"""The stages of the reproduction in the order in which they run: each a job, its recipe and what it changes there."""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from distilray.config.glue import GLUE_TASKS
from distilray.errors import InputError
from distilray.runtime.command_line import CommandParser

STUDENT = "student"
# What a student is without: the paper's ablation (table 4).
ABLATIONS: Mapping[str, tuple[str, ...]] = {
    "no-kl": ("losses.alpha_ce=0.0",),
    "no-cosine": ("losses.alpha_cos=0.0",),
    "no-mlm": ("losses.alpha_mlm=0.0",),
    "random-init": ("student.initialisation=random",),
}
# Where a recipe names the folder of GLUE; what a search writes knows it.
_GLUE = {
    "write_glue_text": "glue_dir={}",
    "build_corpus": "decontamination.paths=[{}]",
    "search_glue": "glue_dir={}",
}

Seeds = Mapping[str, list[int]]


@dataclass(frozen=True)
class Scale:
    """One size of the experiment.

    Attributes:
        recipes: folder below `jobs/recipes` with one recipe for each job.
        folder: of its runs.
        seeds: of the fine-tunings of teacher and student, by task.
        variant_seeds: of those of a variant, on these tasks alone.
        longer, lower_layers: steps and teacher layers of two variants.
        searched_more: what the search for the student changes in that for the teacher.
        teacher: of the hub; one is trained when None.
        sizes: what the fine-tunings change in what a search has found.
    """

    recipes: str
    folder: str
    seeds: Seeds
    variant_seeds: Seeds
    longer: int
    lower_layers: Sequence[int]
    searched_more: tuple[str, ...] = ()
    teacher: str | None = None
    sizes: tuple[str, ...] = ()

    @property
    def trials(self) -> Mapping[str, tuple[str, ...]]:
        """What might bring a student nearer to its teacher."""
        return {
            "longer": (f"max_steps={self.longer}", f"rhythm.evaluate_every_steps={self.longer}"),
            "lower-layers": (f"student.layers={list(self.lower_layers)}",),
            "layer-wise": ("losses.alpha_hidden=1.0", "losses.alpha_values=1.0"),
        }


SCALES: Mapping[str, Scale] = {
    "sample": Scale(
        recipes="reproduction",
        folder="runs/reproduction",
        seeds={"cola": [1, 2, 3], "sst2": [1, 2, 3], "rte": [1, 2, 3]},
        variant_seeds={"cola": [1, 2], "sst2": [1, 2]},  # RTE has 277 dev rows: noise of three points for the most time
        longer=800,
        lower_layers=(0, 1, 2),
        # From the 4,000 rows that tell rates for the teacher apart a student of three layers learns no CoLA at all.
        searched_more=("per_task.cola.max_train_examples=null", "per_task.cola.epochs=3"),
        # More than the search had: all rows of CoLA and RTE, further epochs.
        sizes=(
            "per_task.cola.max_train_examples=null",
            "per_task.cola.epochs=3",
            "per_task.sst2.max_train_examples=6000",
            "per_task.rte.epochs=3",
        ),
    ),
    "base": Scale(
        recipes="reproduction_base",
        folder="runs/reproduction-base",
        seeds={task: [1, 2, 3, 4, 5] for task in GLUE_TASKS},
        variant_seeds={task: [1, 2, 3] for task in GLUE_TASKS},
        longer=30_000,
        lower_layers=(0, 1, 2, 3, 4, 5),
        teacher="hub:google-bert/bert-base-uncased",
    ),
}


@dataclass(frozen=True)
class Stage:
    """One run of a job.

    Attributes:
        name: of the stage: the job's, and behind a dash the model that it makes or looks at.
        run_dir: where it lies.
        recipe: the path of one that an earlier stage has written; the job's own of the scale when None.
        changes: what the stage changes there, as on a command line.
    """

    name: str
    run_dir: str
    recipe: str | None = None
    changes: Sequence[str] = field(default_factory=tuple)

    @property
    def job(self) -> str:
        """The job's name."""
        return self.name.partition("-")[0]

    def overrides(self, glue_dir: str) -> list[str]:
        """What is said to the job besides its recipe."""
        glue = _GLUE.get(self.job)
        return [f"run_dir={self.run_dir}", *([] if glue is None else [glue.format(glue_dir)]), *self.changes]


def stages_of(scale: Scale) -> list[Stage]:
    """All stages; the last one is the report, of the student and of all others as far as they are complete."""
    found = list(_line(scale))
    others = [stage.run_dir for stage in found if stage.name != f"distill-{STUDENT}"]
    return [*found, Stage("write_report", f"{scale.folder}/report", changes=(f"optional_paths={others}",))]


def command_parser() -> CommandParser:
    """The command line of `jobs.run_reproduction`."""
    parser = CommandParser(
        prog="python -m jobs.run_reproduction", description="Re-derives the claim of DistilBERT, stage after stage."
    )
    scales = "sample: two cores, some 2.5 hours; base: BERT base of the hub, all of GLUE, a GPU"
    parser.add_argument("--scale", default="sample", choices=SCALES, help=scales)
    parser.add_argument("--glue", default="data/glue", help="folder with CoLA/, SST-2/, RTE/ (%(default)s)")
    parser.add_argument("--only", metavar="STAGE,...", help="these alone, or patterns of them: 'search_glue-*'")
    parser.add_argument("--skip", metavar="STAGE,...", help="all but these; --only x lists all")
    parser.add_argument("overrides", nargs="*", metavar="STAGE.a.b=value", help="changes to the recipe of a stage")
    return parser


def chosen(stages: Sequence[Stage], only: str | None, skip: str | None) -> list[Stage]:
    """The stages that one of comma-separated patterns fits, or all that none of others fits.

    Raises:
        InputError: a pattern that fits no stage, or nothing is left.
    """
    names = [stage.name for stage in stages]
    wanted, unwanted = (found.split(",") if found else [] for found in (only, skip))
    for pattern in [*wanted, *unwanted]:
        if not fnmatch.filter(names, pattern):
            raise InputError(f"'{pattern}' is no stage; there are {', '.join(names)}")
    found = [stage for stage in stages if _fits(stage, wanted or ["*"]) and not _fits(stage, unwanted)]
    if not found:
        raise InputError("--only and --skip leave no stage to run")
    return found


def _line(scale: Scale) -> Iterator[Stage]:
    at = f"{scale.folder}/{{}}".format
    yield Stage("write_glue_text", at("glue-text"))
    yield Stage("build_corpus", at("corpus"))
    yield Stage("encode_corpus", at("shards"))
    if scale.teacher is None:
        yield Stage("train_teacher", at("teacher"))
    yield Stage(f"distill-{STUDENT}", at(STUDENT))
    yield Stage("evaluate_fill_mask", at("fill-mask"))
    yield Stage("measure_efficiency", at("efficiency"))
    teacher, student = scale.teacher or at("teacher"), at(STUDENT)
    yield Stage("search_glue-teacher", at("search-teacher"), changes=(f"model_dir={teacher}",))
    more = (f"model_dir={student}", *scale.searched_more)
    yield Stage(f"search_glue-{STUDENT}", at(f"search-{STUDENT}"), changes=more)
    yield _fine_tuning(scale, "teacher", teacher, seeds=scale.seeds, searched="teacher")
    beside_teacher = f"teacher_run_dir={at('glue-teacher')}"
    yield _fine_tuning(scale, STUDENT, student, beside_teacher, seeds=scale.seeds)
    for name, changes in ABLATIONS.items():
        yield from _variant(scale, name, changes, beside_teacher)
    taught = (beside_teacher, f"distillation.teacher_run_dir={at('glue-teacher')}")
    yield _fine_tuning(scale, "student-distilled-again", student, *taught, seeds=scale.variant_seeds)
    for name, changes in scale.trials.items():
        yield from _variant(scale, name, changes, beside_teacher)


def _variant(scale: Scale, name: str, changes: Sequence[str], beside_teacher: str) -> Iterator[Stage]:
    run_dir = f"{scale.folder}/{name}"
    yield Stage(f"distill-{name}", run_dir, changes=changes)
    yield _fine_tuning(scale, name, run_dir, beside_teacher, seeds=scale.variant_seeds)


def _fine_tuning(
    scale: Scale, name: str, model_dir: str, *changes: str, seeds: Seeds, searched: str = STUDENT
) -> Stage:
    """A fine-tuning of a model on all tasks, with what the search of a model has found."""
    with_seeds = [f"per_task.{task}.seeds={found}" for task, found in seeds.items()]
    return Stage(
        f"evaluate_glue-{name}",
        f"{scale.folder}/glue-{name}",
        f"{scale.folder}/search-{searched}/best.yaml",
        (f"model_dir={model_dir}", f"tasks={list(seeds)}", *changes, *scale.sizes, *with_seeds),
    )


def _fits(stage: Stage, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(stage.name, pattern) for pattern in patterns)
