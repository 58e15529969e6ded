"""Wire types of the service: Azure's fill-mask forms and Hugging Face's.

Strict: a number is never made from a bool or a string, and an unknown key is an error.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from distilray.config.serving import MAX_TOP_K
from distilray.inference.encoding import Query
from distilray.inference.fill_mask import Answer

Texts = list[str]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]


class Wire(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class FillMaskParameters(Wire):
    """What is asked of every text of the request."""

    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K, description="candidates per mask")] = 5
    targets: Annotated[Texts, Field(min_length=1)] | None = Field(
        default=None, description="the only candidates; a word outside the vocabulary counts as its first piece"
    )


class FillMaskRequest(Wire):
    """Hugging Face's form: one text or several."""

    inputs: str | Texts = Field(examples=["Paris is [MASK] of France"])
    parameters: FillMaskParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    def queries(self) -> list[Query]:
        """One query per text."""
        asked = self.parameters or FillMaskParameters()
        targets = None if asked.targets is None else tuple(asked.targets)
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return [Query(text, asked.top_k, targets) for text in texts]

    def response(self, answers: list[Answer]) -> list[object]:
        """Candidates for one text with one mask, a list per mask for several, a list per text for a list of texts."""
        shaped = [_shape_of_text(answer) for answer in answers]
        return shaped[0] if isinstance(self.inputs, str) else list(shaped)


class InputStrings(Wire):
    """The table of the older model card."""

    input_string: Texts


class SplitTable(Wire):
    """A data frame in pandas' split form, as MLflow sends it."""

    columns: Annotated[list[Literal["input_string"]], Field(min_length=1, max_length=1)] = ["input_string"]
    index: list[int | str] | None = None
    data: list[Annotated[Texts, Field(min_length=1, max_length=1)]]


class NoParameters(Wire):
    """An object without keys: the answer is the best token, and nothing about it can be chosen."""


# What `AzureRequest._has_one_form` checks, for readers of the OpenAPI document.
_ONE_FORM: JsonDict = {
    "oneOf": [
        {"required": [one], "properties": {one: {"type": ["array", "object"]}, other: {"type": "null"}}}
        for one, other in (("input_data", "inputs"), ("inputs", "input_data"))
    ]
}


class AzureRequest(Wire):
    """Azure's forms: `input_data` as list or split table, `inputs` as list or as the table of the older model card."""

    model_config = ConfigDict(json_schema_extra=_ONE_FORM)

    input_data: Texts | SplitTable | None = Field(default=None, examples=[["Paris is [MASK] of France"]])
    inputs: Texts | InputStrings | None = None
    params: NoParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    @model_validator(mode="after")
    def _has_one_form(self) -> "AzureRequest":
        if (self.input_data is None) == (self.inputs is None):
            raise ValueError("give either 'input_data' or 'inputs'")
        return self

    def texts(self) -> Texts:
        """The texts of whichever form was sent."""
        given = self.input_data if self.input_data is not None else self.inputs
        if isinstance(given, SplitTable):
            return [row[0] for row in given.data]
        if isinstance(given, InputStrings):
            return given.input_string
        assert given is not None
        return given

    def queries(self) -> list[Query]:
        """One query per text, for the best token alone."""
        return [Query(text, top_k=1, sequences=False) for text in self.texts()]

    def response(self, answers: list[Answer]) -> list[object]:
        """The best token of every text, those of several masks joined by a comma; the older card has a row object."""
        best = [",".join(candidates[0].token_str for candidates in answer) for answer in answers]
        return [{"0": token} for token in best] if isinstance(self.inputs, InputStrings) else list(best)


def _shape_of_text(answer: Answer) -> list[object]:
    masks: list[object] = [[candidate._asdict() for candidate in candidates] for candidates in answer]
    if len(masks) == 1:
        return [candidate._asdict() for candidate in answer[0]]
    return masks


class ErrorBody(BaseModel):
    """The body of every answer that is not 200."""

    error: str
    error_type: str
    request_id: str


class CandidateBody(BaseModel):
    """One candidate for a mask."""

    score: float
    token: int
    token_str: str
    sequence: str
