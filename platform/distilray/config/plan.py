"""Config of `jobs.plan`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distilray.config.base import Config, Count, InputFile, NonNegative, Positive, SeededConfig, Text
from distilray.config.distillation import EstimateConfig

WordCount = Annotated[int, Field(ge=0)]


class StageRecipeConfig(Config):
    """Recipe file and overrides, as passed to the job of the stage."""

    path: InputFile
    overrides: list[str] = Field(default=[], description="a.b=value, as on the command line of the job")


class StageRecipesConfig(Config):
    """Recipes of the planned stages; stages without one are left out of the plan."""

    build_corpus: StageRecipeConfig | None = None
    encode_corpus: StageRecipeConfig
    distill: StageRecipeConfig
    evaluate_glue: StageRecipeConfig | None = None
    export_model: StageRecipeConfig | None = None


class TextConfig(Config):
    """Amount of text. The default word counts are those of BERT's corpus (Devlin et al. 2018, section 3.1)."""

    dump_gb: NonNegative = Field(default=24.0, description="size of the bz2 dump of the wiki")
    wikipedia_words: WordCount = Field(
        default=2_500_000_000,
        description="words left after cleaning; current dumps have more, see corpus_report.json of a run",
    )
    book_words: WordCount = 800_000_000
    tokens_per_word: Positive = Field(default=1.31, description="measured on the sample with BERT's vocabulary")


class ModelShapeConfig(Config):
    """The teacher. The student is derived from it and from the recipe of `distill`."""

    layers: Count = 12
    dim: Count = 768
    heads: Count = 12
    hidden_dim: Count = 3072
    vocabulary: Count = 30_522
    positions: Count = 512


class ClusterConfig(Config):
    """Machines by their names in `operations/plan/machines.yaml`, and values that override that table."""

    machine: Text = Field(default="p4d.24xlarge", description="machine used for training")
    market: Literal["on-demand", "spot"] = "on-demand"
    price_per_machine_hour: NonNegative | None = Field(default=None, description="US dollars; default: from the table")
    max_machines: Count | None = Field(
        default=None,
        description="limit for training on CPUs; more workers than fit share cores; default: as many as needed",
    )
    data_machine: Text = Field(
        default="m7i.4xlarge", description="machine used for the stages that process text, and for export"
    )
    data_machines: Count = 4
    data_price_per_machine_hour: NonNegative | None = None
    mfu: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None,
        description="model FLOPs utilization: share of peak that training reaches; default: published, or projected",
    )


class SlowdownsConfig(Config):
    """Stragglers and preemptions."""

    straggler_mean: NonNegative = Field(
        default=0.02,
        description="mean delay of a worker as a fraction of its step time, exponentially distributed; a step waits "
        "for the slowest worker",
    )
    preemptions_per_machine_hour: NonNegative = 0.0
    restart_s: NonNegative = Field(default=180.0, description="time from a preemption to the first new step")
    preemption_notice: bool = Field(
        default=True,
        description="save a checkpoint before the machine is reclaimed; otherwise repeat the steps since the last one",
    )


class SimulationConfig(Config):
    """Settings of the simulated training runs."""

    workers: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)] = Field(
        default=[1, 2, 4, 8, 16, 32, 64], description="numbers of workers to simulate"
    )


class PlanEstimateConfig(EstimateConfig):
    """Throughput and price of one worker, which take precedence over the table of machines."""

    identity: ClassVar[bool] = True  # the estimate is the result of this job


class PlanConfig(SeededConfig):
    """Recipe of `jobs.plan`."""

    stages: StageRecipesConfig
    text: TextConfig = TextConfig()
    teacher: ModelShapeConfig = ModelShapeConfig()
    cluster: ClusterConfig = ClusterConfig()
    slowdowns: SlowdownsConfig = SlowdownsConfig()
    simulation: SimulationConfig = SimulationConfig()
    estimate: PlanEstimateConfig = PlanEstimateConfig()
