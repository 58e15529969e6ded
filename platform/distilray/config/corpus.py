"""What a recipe of `jobs.build_corpus` may say."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from distilray.config.base import Config, Count, Fraction, InputFile, InputName, RayJobConfig

SourceName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
SourceLanguage = Annotated[
    LanguageCode | None,
    Field(
        description="ISO 639 code of the text, by which it is split into sentences; when left out `filters.language`, "
        "then the language of the wiki, then English"
    ),
]
_DEFAULT_BAD_FRACTION = 0.01
Path = Annotated[
    InputFile, Field(description="a file, a folder (read with all below it) or a pattern with *; or a URI")
]
SourcePath = Annotated[Path, InputName("source_#")]

_ARGUMENT = re.compile(r"\{[^{}|=]+(?:\|[^{}|=]+)*\}")  # of a template, or alternatives
_WORDS = ("nothing", "drop sentence")


def normalize_name(name: str) -> str:
    """A name of a namespace, template or language in the form that tables use."""
    return " ".join(name.replace("_", " ").split()).lower()


def _check_template_rule(rule: str) -> str:
    text = _ARGUMENT.sub("", rule)
    if "{" in text or "}" in text:
        raise ValueError(f"{rule}: not a format; put the names of arguments in braces, such as {{1}} or {{2|text}}")
    if rule not in _WORDS and (word := rule.replace("_", " ").strip().lower()) in _WORDS:
        raise ValueError(f"{rule}: write it as {word!r}")
    return rule


TemplateName = Annotated[str, Field(pattern=r"^[^{}|\[\]<>]*[^{}|\[\]<>\s_][^{}|\[\]<>]*$", max_length=255)]
TemplateRule = Annotated[str, Field(min_length=1), AfterValidator(_check_template_rule)]


class WikipediaSource(Config):
    """Dumps of a wiki: `*-pages-articles*.xml`, plain or .bz2, whole or in numbered parts."""

    kind: Literal["wikipedia"] = "wikipedia"
    path: SourcePath = Field(description="the dump; `sample:wikipedia` is the small real dump of the `sample` extra")
    index_path: Annotated[InputFile, InputName(None)] | None = Field(
        default=None,
        description="index of a multistream dump; found by itself when it lies beside the dump under its usual name",
    )
    name: SourceName = Field(default="wikipedia", description="of the wiki; begins the doc_id of its documents")
    license: str = "CC-BY-SA-4.0"
    language: SourceLanguage = None
    templates: Mapping[TemplateName, TemplateRule] = Field(
        default={},
        description="what templates show, by name: `nothing`, `drop sentence`, or a format of their arguments such as "
        '"{1} {2}"; `{2|text}` is the first of two arguments that is not empty',
    )

    @field_validator("templates")
    @classmethod
    def _names_differ(cls, rules: Mapping[str, str]) -> Mapping[str, str]:
        names = map(normalize_name, rules)
        if doubled := [name for name, same in Counter(names).items() if same > 1]:
            raise ValueError(f"{doubled[0]}: two rules for one template; keep one")
        return rules


class _FileSource(Config):
    kind: str
    path: SourcePath
    name: SourceName
    license: str = "unknown"
    language: SourceLanguage = None


class BooksSource(_FileSource):
    """Books as plain text, one in a file: .txt, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["books"]
    name: SourceName = "books"


class _TextsSource(_FileSource):
    hard_wrapped: bool = Field(
        default=False, description="a line break inside the text is a space, not a new paragraph"
    )


class TableSource(_TextsSource):
    """Documents in the rows of tables."""

    text_column: str = "text"
    title_column: str | None = None
    id_column: str | None = Field(
        default=None, description="unique in the source; when left out, file and byte offset (in Parquet, row number)"
    )


class ParquetSource(TableSource):
    """Documents in the rows of Parquet files."""

    kind: Literal["parquet"]


class JsonLinesSource(TableSource):
    """Documents in the lines of JSON files: .jsonl, .json, .ndjson, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["jsonl"]


class CsvSource(TableSource):
    """Documents in the rows of .csv and .tsv files with a header, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["csv", "tsv"]
    delimiter: Annotated[str, Field(pattern=r'^[^\w"\r\n]$')] | None = Field(
        default=None, description="one character; a tab for kind tsv and for .tsv, else a comma when left out"
    )
    quoted: bool = Field(
        default=True,
        description="fields in double quotes may contain delimiters and line breaks; false: quotes are text",
    )


class TextSource(_TextsSource):
    """Documents in plain text files: .txt, .text, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"]
    document_per: Literal["line", "blank_line", "file"] = Field(
        default="line", description="what ends a document: a line break, a blank line, or the end of the file"
    )


Source = Annotated[
    WikipediaSource | BooksSource | ParquetSource | JsonLinesSource | CsvSource | TextSource,
    Field(discriminator="kind"),
]


class FilterConfig(Config):
    """Documents that are dropped, each for one reason that the report counts. 0 or 1 switches a bound off."""

    min_words: Annotated[int, Field(ge=0)] = Field(
        default=20,
        description="between spaces; a Han character, two of kana and four of Thai, Khmer or the like are one",
    )
    min_sentences: Annotated[int, Field(ge=0)] = 2
    min_letter_fraction: Fraction = Field(
        default=0.5, description="letters among all characters that are not white space"
    )
    max_list_fraction: Fraction = Field(default=0.5, description="sentences that do not end like one, among all")
    max_repeated_fraction: Fraction = Field(default=0.3, description="sentences that stood in the document before")
    language: LanguageCode | None = Field(
        default=None, description="ISO 639 code; documents of another language are dropped"
    )
    min_language_probability: Fraction = 0.5


class NearDuplicatesConfig(Config):
    """MinHash of word n-grams, and locality-sensitive hashing in bands (Broder 1997; Leskovec et al., ch. 3)."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.8, description="estimated Jaccard similarity from which the later document is dropped"
    )
    ngram_words: Count = 5
    bands: Annotated[int, Field(ge=1, le=64)] = 16
    rows_per_band: Annotated[int, Field(ge=1, le=64)] = 8


class DuplicatesConfig(Config):
    """Documents that are dropped because an earlier one, in the order of the recipe, says the same."""

    exact: bool = True
    near: NearDuplicatesConfig | None = None


class DecontaminationConfig(Config):
    """Text that is dropped because an evaluation set holds it."""

    paths: Annotated[list[Annotated[Path, InputName("evaluation_#")]], Field(min_length=1)] = Field(
        description="evaluation files (.tsv, .csv, .jsonl, .txt, .parquet), or folders with a subfolder for each set"
    )
    ngram_words: Annotated[int, Field(ge=3, le=100)] = 13
    drop: Literal["document", "sentence"] = "document"


class CorpusFaultToleranceConfig(Config):
    """When input that cannot be read makes the job fail."""

    identity: ClassVar[bool] = False
    max_bad_fraction: Fraction = Field(
        default=_DEFAULT_BAD_FRACTION,
        description="of each source: bytes that cannot be read, and documents that were refused; a file that is cut "
        "short is an error unless this is above its default",
    )

    @property
    def allows_cut_files(self) -> bool:
        """True if files that are cut short are read. Their missing share is unknown, so the default allows none."""
        return self.max_bad_fraction > _DEFAULT_BAD_FRACTION


class BuildCorpusConfig(RayJobConfig):
    """Recipe of `jobs.build_corpus`."""

    sources: Annotated[list[Source], Field(min_length=1)]
    filters: FilterConfig = FilterConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    decontamination: DecontaminationConfig | None = None
    tokenizer_path: InputFile | None = Field(
        default=None, description="`tokenizer.json` that counts tokens for the report; basic tokens when left out"
    )
    fault_tolerance: CorpusFaultToleranceConfig = CorpusFaultToleranceConfig()
    chunk_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=8.0, description="MB of input, as stored, that one task reads"
    )
    file_mb: Annotated[float, Field(gt=0, le=4096)] = Field(default=64.0, description="size of a file of documents")
    max_document_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=16.0, description="a longer document is put in quarantine"
    )

    @model_validator(mode="before")
    @classmethod
    def _wikipedia_is_the_default_kind(cls, values: object) -> object:
        """A source without `kind` is a dump, as the first recipes had it."""
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(sources, list):
            return values
        named = [{"kind": "wikipedia", **source} if isinstance(source, dict) else source for source in sources]
        return {**values, "sources": named}
