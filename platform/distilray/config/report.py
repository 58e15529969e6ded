"""Config of `jobs.write_report`."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from distilray.config.base import InputName, JobConfig, LocationType

# Paths are not made absolute because the report displays them as written.
AnyRun = Annotated[str, Field(min_length=1), LocationType("run", make_absolute=False), InputName("run_#")]
OptionalRun = Annotated[
    str, Field(min_length=1), LocationType("run", make_absolute=False, is_optional=True), InputName("run_#")
]
ShortText = Annotated[str, Field(min_length=1, max_length=200)]


class ReportConfig(JobConfig):
    """Recipe of `jobs.write_report`."""

    run_paths: Annotated[list[AnyRun], Field(min_length=1)] = Field(
        description="complete run folders (paths or URIs) of any jobs, in any number and order"
    )
    optional_paths: list[OptionalRun] = Field(
        default=[], description="further run folders, which are skipped while they are incomplete"
    )
    model_name: ShortText = Field(
        default="distilled-bert", description="name on the model card, as a hub would list it"
    )
    license: ShortText | None = Field(
        default=None, description="license of the model by its id on the hub (apache-2.0); default: not stated"
    )
    language: list[ShortText] = Field(default=["en"], description="languages of the texts as ISO 639 codes")
    base_model: ShortText | None = Field(
        default=None, description="hub id of the teacher; default: hub:OWNER/NAME in the recipe of the student"
    )
    datasets: list[ShortText] = Field(default=[], description="hub ids of the data sets in the corpus, if any")

    @field_validator("optional_paths")
    @classmethod
    def _drop_required_paths(cls, paths: list[str], info: ValidationInfo) -> list[str]:
        return [path for path in paths if path not in info.data.get("run_paths", ())]
