"""What the recipe of `jobs.evaluate_bias` may say."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Count, Fraction, InputFile, ModelRef, SeededConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
# How StereoSet's candidates are scored; see `evaluation/bias/stereoset.py`.
Scoring = Literal["left_to_right", "official"]


class EvaluateBiasConfig(SeededConfig):
    """Recipe of `jobs.evaluate_bias`."""

    models: Annotated[dict[Name, ModelRef], Field(min_length=1)] = Field(
        description="by a name of your choice: run or model folder, ONNX folder of jobs.export_model, URI of one, or "
        "hub:OWNER/NAME; the first is the reference that the others are compared with"
    )
    probes: bool = Field(default=True, description="the model card's probes and the table of templates x groups")
    top_k: Count = Field(default=5, description="answers to each probe")
    crows_pairs_path: InputFile | None = Field(
        default=None, description="crows_pairs_anonymized.csv of github.com/nyu-mll/crows-pairs; CC BY-SA 4.0"
    )
    stereoset_path: InputFile | None = Field(
        default=None, description="dev.json of github.com/moinnadeem/StereoSet; CC BY-SA 4.0"
    )
    stereoset_scoring: Scoring = Field(
        default="left_to_right",
        description="left_to_right: mean log probability of the word's pieces, each with those to its right masked; "
        "official: as in the authors' code, for comparison with published numbers",
    )
    max_bad_fraction: Fraction = Field(default=0.05, description="of a file's rows that may be left out, with reasons")
    batch_size: Count = 64
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="fp32", description="of the encoder; fp32, as the likelihoods that are compared lie close together"
    )

    @property
    def reference(self) -> str:
        """Name of the model that the others are compared with."""
        return next(iter(self.models))

    def identity_values(self) -> dict[str, Any]:
        """As of every config; of the models only their names, in order: what they hold is known by the inputs."""
        return {**super().identity_values(), "models": list(self.models)}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for name in self.models:
            # The manifest knows the two files of a model NAME as NAME and NAME_config.
            if f"{name}_config" in self.models:
                raise ValueError(f"models: '{name}_config' beside '{name}'; choose another name")
        return self

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if not (self.probes or self.crows_pairs_path or self.stereoset_path):
            raise ValueError("nothing to evaluate: set probes, crows_pairs_path or stereoset_path")
        return self
