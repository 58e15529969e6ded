"""Request and response bodies in the fill-mask formats of Azure and Hugging Face.

Validation is strict: there are no conversions from bool or string to number, and an unknown key is an error. It stops
at the first error of a list, and a union is validated only against the member of the type that was sent.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, PydanticCustomError

from distilray.config.serving import MAX_ITEMS, MAX_TARGETS, MAX_TOP_K, LimitsConfig
from distilray.inference.tasks.base import TextQuery
from distilray.inference.tasks.fill_mask import FillMaskAnswer, FillMaskQuery

_DEFAULT_TOP_K = 5
# Schema key for limits from the configuration; `fill_in_limits` replaces it with their values.
_LIMITS = "x-limits"
_JSON_TYPES = {str: "<text>", list: "<list>", int: "<number>", type(None): "<null>"}


def _json_type(value: object) -> str | None:
    """Return the tag of the union member for a JSON value; no key of a request looks like a tag."""
    if isinstance(value, dict):
        return "<rows>" if "data" in value else "<columns>"
    return _JSON_TYPES.get(type(value))


def _format_of(value: object) -> str:
    """Return the tag of the format of a body."""
    if not isinstance(value, dict):
        return "<hugging face>"
    azure = value.keys() & {"input_data", "params"} or isinstance(value.get("inputs"), dict)
    return "<azure>" if azure else "<hugging face>"


class _AnyOf:
    """Describes a union as `anyOf` in the OpenAPI document, because a body may match several members."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        return {("anyOf" if key == "oneOf" else key): value for key, value in schema.items()}


def _one_of(expected: str) -> Discriminator:
    return Discriminator(_json_type, custom_error_type="wrong_type", custom_error_message=expected)


Null = Annotated[None, Tag("<null>")]
Text = Annotated[str, Field(json_schema_extra={_LIMITS: {"maxLength": "max_chars"}})]
# `Budget` rejects lists that are empty or longer than the configured limit, with specific errors.
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
    """Base class of the objects in a request."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: object) -> object:
        """Stop at the first unknown key; pydantic would collect all of them."""
        if isinstance(data, dict) and any(key not in cls.model_fields for key in data):
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError("unknown_key", "unknown key; known keys: {known}", {"known": known or "none"})
        return data


class TextRequest(StrictModel):
    """One or several texts, for a task without parameters."""

    inputs: TextOrTexts
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    def queries(self) -> list[TextQuery]:
        """Return one query per text."""
        return [TextQuery(text) for text in ([self.inputs] if isinstance(self.inputs, str) else self.inputs)]

    def response(self, answers: list[Any]) -> Any:
        """Return a single answer for a single text, else a list of answers."""
        return answers[0] if isinstance(self.inputs, str) else answers


class FillMaskParameters(StrictModel):
    """Parameters for all texts of the request."""

    top_k: TopK | None = Field(default=_DEFAULT_TOP_K, description="candidates per mask; null means 5")
    targets: Annotated[
        Annotated[str, Tag("<text>")] | Annotated[Targets, Tag("<list>")] | Null,
        _one_of("send a word or a list of words"),
        _AnyOf(),
    ] = Field(
        default=None,
        description="restrict the candidates to these words; each must be a single token of the vocabulary",
    )


class FillMaskRequest(StrictModel):
    """Hugging Face's format: one or several texts."""

    inputs: TextOrTexts = Field(examples=["Paris is [MASK] of France"])
    parameters: FillMaskParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")
    options: dict[str, Any] | None = Field(
        default=None, description="accepted for compatibility with Hugging Face's hosted API, and ignored"
    )

    def queries(self) -> list[FillMaskQuery]:
        """Return one query per text."""
        parameters = self.parameters or FillMaskParameters()
        targets = [parameters.targets] if isinstance(parameters.targets, str) else parameters.targets
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return [
            FillMaskQuery(text, parameters.top_k or _DEFAULT_TOP_K, None if targets is None else tuple(targets))
            for text in texts
        ]

    def response(self, answers: list[FillMaskAnswer]) -> list[object]:
        """Return the candidates: one list per mask for several masks, and one list per text if a list was sent."""
        bodies = [_candidates_of_text(answer) for answer in answers]
        return bodies[0] if isinstance(self.inputs, str) else list(bodies)


class NoParameters(StrictModel):
    """An object without keys, because the best token needs no parameters."""


class ColumnTable(StrictModel):
    """A table by column, as in Azure's tabular samples and the older model card."""

    input_string: TextOrTexts
    parameters: NoParameters | None = None


class SplitTable(StrictModel):
    """A data frame in pandas' `split` format, as sent by MLflow and Azure's clients."""

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
# The check of `AzureRequest._has_one_input`, for the OpenAPI document.
_ONE_INPUT: JsonDict = {
    "oneOf": [
        {"required": [one], "properties": {one: {"type": ["array", "object", "string"]}, other: {"type": "null"}}}
        for one, other in (("input_data", "inputs"), ("inputs", "input_data"))
    ]
}


class AzureRequest(StrictModel):
    """Azure's formats: `input_data` or `inputs` as a text, a list of texts or a table."""

    model_config = ConfigDict(json_schema_extra=_ONE_INPUT)

    input_data: AzureTexts = Field(default=None, examples=[["Paris is [MASK] of France"]])
    inputs: AzureTexts = None
    params: NoParameters | None = None
    model: ModelName | None = Field(default=None, description="name of one of the models that /info lists")

    @model_validator(mode="after")
    def _has_one_input(self) -> "AzureRequest":
        if (self.input_data is None) == (self.inputs is None):
            raise ValueError("send either 'input_data' or 'inputs'")
        return self

    def texts(self) -> list[str]:
        """Return the texts, whatever the format."""
        sent = self.input_data if self.input_data is not None else self.inputs
        if isinstance(sent, SplitTable):
            return [row if isinstance(row, str) else row[0] for row in sent.data]
        if isinstance(sent, ColumnTable):
            sent = sent.input_string
        assert sent is not None
        return [sent] if isinstance(sent, str) else sent

    def queries(self) -> list[FillMaskQuery]:
        """Return one query per text, for the best token only."""
        return [FillMaskQuery(text, top_k=1, sequences=False) for text in self.texts()]

    def response(self, answers: list[FillMaskAnswer]) -> list[object]:
        """Return the best tokens of each text, joined by commas; for a `ColumnTable` in `inputs`, as row objects."""
        best = [",".join(candidates[0].token_str for candidates in answer) for answer in answers]
        return [{"0": token} for token in best] if isinstance(self.inputs, ColumnTable) else list(best)


AnyRequest = Annotated[
    Annotated[FillMaskRequest, Tag("<hugging face>")] | Annotated[AzureRequest, Tag("<azure>")],
    Discriminator(_format_of),
    _AnyOf(),
]
"""A body in either format: Azure's if it has `input_data` or `params`, or if `inputs` is a table."""


def fill_in_limits(schema: Any, limits: LimitsConfig) -> None:
    """Insert the configured limits into the schemas of an OpenAPI document."""
    if isinstance(schema, list):
        for item in schema:
            fill_in_limits(item, limits)
    if isinstance(schema, dict):
        for keyword, limit in schema.pop(_LIMITS, {}).items():
            schema[keyword] = getattr(limits, limit)
        for value in schema.values():
            fill_in_limits(value, limits)


def _candidates_of_text(answer: FillMaskAnswer) -> list[object]:
    masks: list[object] = [[candidate._asdict() for candidate in candidates] for candidates in answer]
    if len(masks) == 1:
        return [candidate._asdict() for candidate in answer[0]]
    return masks


class CandidateBody(BaseModel):
    """A candidate for a mask."""

    score: float
    token: int
    token_str: str
    sequence: str
