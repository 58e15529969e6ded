"""What the recipe of `jobs.plan` may say."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from distilray.config.base import Config, Count, InputFile, NonNegative, Positive, SeededConfig, Text
from distilray.config.distillation import EstimateConfig

Amount = Annotated[int, Field(ge=0)]
Precision = Literal["fp32", "fp16", "bf16"]


class StageRecipeConfig(Config):
    """The recipe of a station, as that station would read it."""

    path: InputFile
    overrides: list[str] = Field(default=[], description="a.b=value, as at the end of the station's command")


class StageRecipesConfig(Config):
    """The recipes that are planned; a station without one is left out of the plan."""

    build_corpus: StageRecipeConfig | None = None
    encode_corpus: StageRecipeConfig
    distill: StageRecipeConfig
    evaluate_glue: StageRecipeConfig | None = None
    export_model: StageRecipeConfig | None = None


class TextConfig(Config):
    """How much text there is. The words are those of BERT's corpus (Devlin et al. 2018, section 3.1)."""

    dump_gb: NonNegative = Field(default=24.0, description="of the dump of a wiki, as bz2")
    wikipedia_words: Amount = Field(
        default=2_500_000_000, description="that are left of it; today's has more, corpus_report.json says how many"
    )
    book_words: Amount = 800_000_000
    tokens_per_word: Positive = Field(default=1.31, description="that of the sample with BERT's vocabulary")


class ModelShapeConfig(Config):
    """The teacher; the student follows from it and from the recipe of distill."""

    layers: Count = 12
    dim: Count = 768
    heads: Count = 12
    hidden_dim: Count = 3072
    vocabulary: Count = 30_522
    positions: Count = 512


class ClusterConfig(Config):
    """The machines, by their names in the table of `operations/plan/machines.yaml`, and what differs from it."""

    machine: Text = Field(default="p4d.24xlarge", description="that trains")
    market: Literal["on-demand", "spot"] = "on-demand"
    price_per_machine_hour: NonNegative | None = Field(default=None, description="US dollars; the table's if left out")
    max_machines: Count | None = Field(
        default=None, description="of CPUs that train; further workers share their cores. As many as needed if left out"
    )
    data_machine: Text = Field(default="m7i.4xlarge", description="of the stations that work on text, and of export")
    data_machines: Count = 4
    data_price_per_machine_hour: NonNegative | None = None
    mfu: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="share of the peak that training reaches; the table's if left out"
    )


class SlowdownsConfig(Config):
    """What keeps a run from its pace."""

    straggler_mean: NonNegative = Field(
        default=0.02, description="mean delay of a worker, as part of its time, exponential; a step waits for the last"
    )
    preemptions_per_machine_hour: NonNegative = 0.0
    restart_s: NonNegative = Field(default=180.0, description="from a preemption to the first new step")
    preemption_notice: bool = Field(
        default=True,
        description="the run saves before the machine goes; else it repeats the steps since its checkpoint",
    )


class SimulationConfig(Config):
    """How the run is simulated."""

    workers: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)] = Field(
        default=[1, 2, 4, 8, 16, 32, 64], description="numbers of them to simulate"
    )


class RateConfig(EstimateConfig):
    """The rate of one worker, stated or measured, in place of the table's; and its price in place of the machine's."""

    identity: ClassVar[bool] = True  # here it decides the result


class PlanConfig(SeededConfig):
    """Recipe of `jobs.plan`."""

    stages: StageRecipesConfig
    text: TextConfig = TextConfig()
    teacher: ModelShapeConfig = ModelShapeConfig()
    cluster: ClusterConfig = ClusterConfig()
    slowdowns: SlowdownsConfig = SlowdownsConfig()
    simulation: SimulationConfig = SimulationConfig()
    estimate: RateConfig = RateConfig()
