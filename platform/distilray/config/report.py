"""What the recipe of `jobs.write_report` may say."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from distilray.config.base import InputName, JobConfig, LocationType

# The report shows the paths as the recipe names them.
AnyRun = Annotated[str, Field(min_length=1), LocationType("run", is_absolute=False), InputName("run_#")]
OptionalRun = Annotated[
    str, Field(min_length=1), LocationType("run", is_absolute=False, is_optional=True), InputName("run_#")
]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class ReportConfig(JobConfig):
    """Recipe of `jobs.write_report`."""

    run_paths: Annotated[list[AnyRun], Field(min_length=1)] = Field(
        description="complete run folders (paths or URIs), of any jobs of the line, in any number and order"
    )
    optional_paths: list[OptionalRun] = Field(
        default=[], description="further ones, left out while they are not complete"
    )
    model_name: Text = Field(default="distilled-bert", description="of the model card, as a hub would list it")
    license: Text | None = Field(
        default=None, description="of the model, as the hub names it (apache-2.0); the card names none when left out"
    )
    language: list[Text] = Field(default=["en"], description="of the texts, as ISO 639 codes")
    base_model: Text | None = Field(
        default=None, description="hub id of the teacher; that of the recipe's hub:OWNER/NAME when left out"
    )
    datasets: list[Text] = Field(default=[], description="hub ids of what the corpus was made from, if there are any")

    @field_validator("optional_paths")
    @classmethod
    def _named_once(cls, paths: list[str], info: ValidationInfo) -> list[str]:
        return [path for path in paths if path not in info.data.get("run_paths", ())]
