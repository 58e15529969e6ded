"""Request and response bodies: Azure's fill-mask forms and Hugging Face's.

Strict: a number is never made from a bool or a string, and an unknown key is an error. Validation stops at the first
error of a list, and where a key takes several types, only the type that was sent is tried.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, PydanticCustomError

from distilray.config.serving import MAX_ITEMS, MAX_TARGETS, MAX_TOP_K, LimitsConfig
from distilray.inference.tasks.base import TextQuery
from distilray.inference.tasks.fill_mask import FillMaskAnswer, FillMaskQuery

_TOP_K = 5
# Key of a schema that names limits of the configuration; `state_limits` replaces it.
_LIMITS = "x-limits"
_JSON_TYPES = {str: "<text>", list: "<list>", int: "<number>", type(None): "<null>"}


def _json_type(value: object) -> str | None:
    """Tag of the member of a union that a JSON value is checked against; no key of a request looks like it."""
    if isinstance(value, dict):
        return "<rows>" if "data" in value else "<columns>"
    return _JSON_TYPES.get(type(value))


def _form(value: object) -> str:
    """Tag of the form that a body has where both are accepted."""
    if not isinstance(value, dict):
        return "<hugging face>"
    azure = value.keys() & {"input_data", "params"} or isinstance(value.get("inputs"), dict)
    return "<azure>" if azure else "<hugging face>"


class _AnyOf:
    """States a union as `anyOf` in the OpenAPI document, because a body may match several forms."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        return {("anyOf" if key == "oneOf" else key): value for key, value in schema.items()}


def _one_of(expected: str) -> Discriminator:
    return Discriminator(_json_type, custom_error_type="wrong_type", custom_error_message=expected)


Null = Annotated[None, Tag("<null>")]
Text = Annotated[str, Field(json_schema_extra={_LIMITS: {"maxLength": "max_chars"}})]
# The lists of texts that are empty or too long for the configuration are refused with errors of their own.
_ITEMS: JsonDict = {"minItems": 1, _LIMITS: {"maxItems": "max_items"}}
Texts = Annotated[list[Text], Field(fail_fast=True, max_length=MAX_ITEMS, json_schema_extra=_ITEMS)]
TextOrTexts = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Texts, Tag("<list>")],
    _one_of("send a text or a list of texts"),
    _AnyOf(),
]
Targets = Annotated[
    list[str],
    Field(
        fail_fast=True, min_length=1, max_length=MAX_TARGETS, json_schema_extra={_LIMITS: {"maxItems": "max_targets"}}
    ),
]
Row = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=1), Tag("<list>")],
    _one_of("send a text, or a list with one text"),
    _AnyOf(),
]
Label = Annotated[
    Annotated[int, Tag("<number>")] | Annotated[str, Tag("<text>")], _one_of("send a number or a string"), _AnyOf()
]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, json_schema_extra={_LIMITS: {"maximum": "max_top_k"}})]
ModelName = Annotated[str, Field(min_length=1, max_length=128)]


class StrictModel(BaseModel):
    """An object of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: object) -> object:
        """Stops at the first unknown key, where pydantic would collect them all."""
        if isinstance(data, dict) and any(key not in cls.model_fields for key in data):
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError("unknown_key", "unknown key; known keys: {known}", {"known": known or "none"})
        return data


class TextRequest(StrictModel):
    """One text or several, for a task without parameters."""

    inputs: TextOrTexts
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    def queries(self) -> list[TextQuery]:
        """One query per text."""
        return [TextQuery(text) for text in ([self.inputs] if isinstance(self.inputs, str) else self.inputs)]

    def response(self, answers: list[Any]) -> Any:
        """The answer to one text, a list of them for a list of texts."""
        return answers[0] if isinstance(self.inputs, str) else answers


class FillMaskParameters(StrictModel):
    """What is asked of every text of the request."""

    top_k: TopK | None = Field(default=_TOP_K, description="candidates per mask; 5 where it is null")
    targets: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[Targets, Tag("<list>")] | Null,
        _one_of("send a word or a list of words"),
        _AnyOf(),
    ] = Field(default=None, description="the only candidates; each must be a single token of the vocabulary")


class FillMaskRequest(StrictModel):
    """Hugging Face's form: one text or several."""

    inputs: TextOrTexts = Field(examples=["Paris is [MASK] of France"])
    parameters: FillMaskParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")
    options: dict[str, Any] | None = Field(default=None, description="of Hugging Face's hosted API; ignored")

    def queries(self) -> list[FillMaskQuery]:
        """One query per text."""
        asked = self.parameters or FillMaskParameters()
        targets = [asked.targets] if isinstance(asked.targets, str) else asked.targets
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return [
            FillMaskQuery(text, asked.top_k or _TOP_K, None if targets is None else tuple(targets)) for text in texts
        ]

    def response(self, answers: list[FillMaskAnswer]) -> list[object]:
        """Candidates for one text with one mask, a list per mask for several, a list per text for a list of texts."""
        shaped = [_shape_of_text(answer) for answer in answers]
        return shaped[0] if isinstance(self.inputs, str) else list(shaped)


class NoParameters(StrictModel):
    """An object without keys: the answer is the best token, and nothing about it can be chosen."""


class ColumnTable(StrictModel):
    """A table by column, as the tabular samples of Azure and the older model card send it."""

    input_string: TextOrTexts
    parameters: NoParameters | None = None


class SplitTable(StrictModel):
    """A data frame in pandas' split form, as MLflow and Azure's clients send it."""

    columns: Annotated[list[Literal["input_string", 0]], Field(fail_fast=True, min_length=1, max_length=1)] | None = (
        None
    )
    index: Annotated[list[Label], Field(fail_fast=True, max_length=MAX_ITEMS)] | None = None
    data: Annotated[list[Row], Field(fail_fast=True, max_length=MAX_ITEMS, json_schema_extra=_ITEMS)]
    parameters: NoParameters | None = None


AzureTexts = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Texts, Tag("<list>")]
    | Annotated[SplitTable, Tag("<rows>")]
    | Annotated[ColumnTable, Tag("<columns>")]
    | Null,
    _one_of("send a text, a list of texts, or a table with 'input_string' or 'data'"),
    _AnyOf(),
]
# What `AzureRequest._has_one_form` checks, for readers of the OpenAPI document.
_ONE_FORM: JsonDict = {
    "oneOf": [
        {"required": [one], "properties": {one: {"type": ["array", "object", "string"]}, other: {"type": "null"}}}
        for one, other in (("input_data", "inputs"), ("inputs", "input_data"))
    ]
}


class AzureRequest(StrictModel):
    """Azure's forms: `input_data` or `inputs` as a text, a list of texts or a table."""

    model_config = ConfigDict(json_schema_extra=_ONE_FORM)

    input_data: AzureTexts = Field(default=None, examples=[["Paris is [MASK] of France"]])
    inputs: AzureTexts = None
    params: NoParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    @model_validator(mode="after")
    def _has_one_form(self) -> "AzureRequest":
        if (self.input_data is None) == (self.inputs is None):
            raise ValueError("give either 'input_data' or 'inputs'")
        return self

    def texts(self) -> list[str]:
        """The texts of whichever form was sent."""
        sent = self.input_data if self.input_data is not None else self.inputs
        if isinstance(sent, SplitTable):
            return [row if isinstance(row, str) else row[0] for row in sent.data]
        if isinstance(sent, ColumnTable):
            sent = sent.input_string
        assert sent is not None
        return [sent] if isinstance(sent, str) else sent

    def queries(self) -> list[FillMaskQuery]:
        """One query per text, for the best token alone."""
        return [FillMaskQuery(text, top_k=1, sequences=False) for text in self.texts()]

    def response(self, answers: list[FillMaskAnswer]) -> list[object]:
        """The best token of every text, those of several masks joined by a comma; the older card has a row object."""
        best = [",".join(candidates[0].token_str for candidates in answer) for answer in answers]
        return [{"0": token} for token in best] if isinstance(self.inputs, ColumnTable) else list(best)


AnyRequest = Annotated[
    Annotated[FillMaskRequest, Tag("<hugging face>")] | Annotated[AzureRequest, Tag("<azure>")],
    Discriminator(_form),
    _AnyOf(),
]
"""A body in either form: Azure's where it has `input_data` or `params`, or `inputs` is a table."""


def fill_in_limits(schema: Any, limits: LimitsConfig) -> None:
    """Puts the configured limits into the schemas of an OpenAPI document."""
    if isinstance(schema, list):
        for each in schema:
            fill_in_limits(each, limits)
    if isinstance(schema, dict):
        for keyword, limit in schema.pop(_LIMITS, {}).items():
            schema[keyword] = getattr(limits, limit)
        for each in schema.values():
            fill_in_limits(each, limits)


def _shape_of_text(answer: FillMaskAnswer) -> list[object]:
    masks: list[object] = [[candidate._asdict() for candidate in candidates] for candidates in answer]
    if len(masks) == 1:
        return [candidate._asdict() for candidate in answer[0]]
    return masks


class CandidateBody(BaseModel):
    """One candidate for a mask."""

    score: float
    token: int
    token_str: str
    sequence: str
