"""Config of `jobs.choose_settings`."""

from pydantic import Field

from distilray.config.base import Count, InputFile, ModelRef, Positive, RayJobConfig
from distilray.config.corpus import LanguageCode


class ChooseSettingsConfig(RayJobConfig):
    """Recipe of `jobs.choose_settings`."""

    text_path: InputFile = Field(
        description="texts: file, folder (searched recursively), glob pattern with *, or URI; .txt, .md, .rst, .jsonl, "
        ".csv, .tsv, .parquet, also compressed, or a dump of a wiki"
    )
    model_dir: ModelRef = Field(description="encoder to start from: folder, URI or hub:OWNER/NAME")
    adapt_teacher: bool = Field(
        default=True,
        description="the pipeline trains the model on the text before it becomes the teacher; false for "
        "mine-without-adaptation.yaml",
    )
    text_column: str | None = Field(
        default=None,
        description="column of the text in tables; default: a usual name, or the column with the most text",
    )
    training_minutes: Positive | None = Field(
        default=None, description="time to train teacher and student together; default: 4 on CPUs, 60 on GPUs"
    )
    language: LanguageCode | None = Field(default=None, description="ISO 639 code; default: detected")
    num_gpus: int | None = Field(
        default=None, ge=0, description="GPUs to train on; default: all of this machine or cluster"
    )
    num_cpus: Count | None = Field(
        default=None, description="CPUs to train on; default: all of this machine or cluster"
    )
