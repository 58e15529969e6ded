"""Config of `jobs.build_corpus`."""

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
        description="ISO 639 code that selects the sentence splitter; default: `filters.language`, then the language "
        "of the wiki, then English"
    ),
]
_DEFAULT_BAD_FRACTION = 0.01
InputPath = Annotated[InputFile, Field(description="file, folder (searched recursively), glob pattern with *, or URI")]
SourcePath = Annotated[InputPath, InputName("source_#")]

_ARGUMENT = re.compile(r"\{[^{}|=]+(?:\|[^{}|=]+)*\}")  # a template argument, or alternatives
_KEYWORDS = ("nothing", "drop sentence")


def normalize_name(name: str) -> str:
    """Return the name of a namespace, template or language normalized for use as a key."""
    return " ".join(name.replace("_", " ").split()).lower()


def _check_template_rule(rule: str) -> str:
    text = _ARGUMENT.sub("", rule)
    if "{" in text or "}" in text:
        raise ValueError(f"{rule}: not a format; put argument names in braces, such as {{1}} or {{2|text}}")
    if rule not in _KEYWORDS and (keyword := rule.replace("_", " ").strip().lower()) in _KEYWORDS:
        raise ValueError(f"{rule}: write it as {keyword!r}")
    return rule


TemplateName = Annotated[str, Field(pattern=r"^[^{}|\[\]<>]*[^{}|\[\]<>\s_][^{}|\[\]<>]*$", max_length=255)]
TemplateRule = Annotated[str, Field(min_length=1), AfterValidator(_check_template_rule)]


class WikipediaSource(Config):
    """Dumps of a wiki: `*-pages-articles*.xml`, plain or .bz2, in one file or in numbered parts."""

    kind: Literal["wikipedia"] = "wikipedia"
    path: SourcePath = Field(
        description="dump; `sample:wikipedia` is the small real dump that comes with the `sample` extra"
    )
    index_path: Annotated[InputFile, InputName(None)] | None = Field(
        default=None,
        description="index of a multistream dump; default: the file next to the dump with the usual name, if any",
    )
    name: SourceName = Field(default="wikipedia", description="name of the wiki and prefix of its document ids")
    license: str = "CC-BY-SA-4.0"
    language: SourceLanguage = None
    templates: Mapping[TemplateName, TemplateRule] = Field(
        default={},
        description="rendering of templates, by name: `nothing`, `drop sentence`, or a format of their arguments such "
        'as "{1} {2}"; `{2|text}` is the first of two arguments that is not empty',
    )

    @field_validator("templates")
    @classmethod
    def _unique_template_names(cls, rules: Mapping[str, str]) -> Mapping[str, str]:
        names = Counter(map(normalize_name, rules))
        if duplicates := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"{duplicates[0]}: two rules for one template; keep one")
        return rules


class _FileSource(Config):
    kind: str
    path: SourcePath
    name: SourceName
    license: str = "unknown"
    language: SourceLanguage = None


class BooksSource(_FileSource):
    """Books as plain text, one per file: .txt, .md, .rst or no suffix, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["books"]
    name: SourceName = "books"


class _TextsSource(_FileSource):
    hard_wrapped: bool = Field(
        default=False,
        description="treat a line break inside the text as a space, not as a new paragraph, except before list items "
        "and indented lines; lines without letters and digits are dropped",
    )


class TableSource(_TextsSource):
    """Documents in the rows of tables."""

    text_column: str = "text"
    title_column: str | None = None
    id_column: str | None = Field(
        default=None, description="unique within the source; default: file and byte offset (row number for Parquet)"
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
        default=None, description="one character; default: a tab for kind tsv and .tsv files, else a comma"
    )
    quoted: bool = Field(
        default=True,
        description="fields in double quotes may contain delimiters and line breaks; false: quotes are text",
    )


class TextSource(_TextsSource):
    """Documents in plain text files: .txt, .md, .rst or no suffix, plain or .gz, .bz2, .xz, .zst."""

    kind: Literal["text"]
    document_per: Literal["line", "blank_line", "file"] = Field(
        default="line", description="end of a document: a line break, a blank line, or the end of the file"
    )


Source = Annotated[
    WikipediaSource | BooksSource | ParquetSource | JsonLinesSource | CsvSource | TextSource,
    Field(discriminator="kind"),
]


class FilterConfig(Config):
    """Document filters. Each dropped document is counted under one reason; a bound of 0 or 1 disables its filter."""

    min_words: Annotated[int, Field(ge=0)] = Field(
        default=20,
        description="words are separated by spaces; one Han character, two kana or four characters of Thai, Khmer and "
        "similar scripts also count as a word",
    )
    min_sentences: Annotated[int, Field(ge=0)] = 2
    min_letter_fraction: Fraction = Field(
        default=0.5, description="share of letters among all characters except white space"
    )
    max_list_fraction: Fraction = Field(
        default=0.5, description="share of sentences without terminal punctuation, as in lists"
    )
    max_repeated_fraction: Fraction = Field(
        default=0.3, description="share of sentences that repeat an earlier one of the document"
    )
    language: LanguageCode | None = Field(
        default=None, description="ISO 639 code; documents in other languages are dropped"
    )
    min_language_probability: Fraction = 0.5


class NearDuplicatesConfig(Config):
    """MinHash of word n-grams with banded locality-sensitive hashing (Broder 1997; Leskovec et al., ch. 3)."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.8, description="estimated Jaccard similarity at or above which the later document is dropped"
    )
    ngram_words: Count = 5
    bands: Annotated[int, Field(ge=1, le=64)] = 16
    rows_per_band: Annotated[int, Field(ge=1, le=64)] = 8


class DuplicatesConfig(Config):
    """Removal of documents that duplicate an earlier one, in the order of the sources in the recipe."""

    exact: bool = True
    near: NearDuplicatesConfig | None = None


class DecontaminationConfig(Config):
    """Removal of text that also occurs in an evaluation set."""

    paths: Annotated[list[Annotated[InputPath, InputName("evaluation_#")]], Field(min_length=1)] = Field(
        description="evaluation files (.tsv, .csv, .jsonl, .txt, .parquet), or folders with one subfolder per set"
    )
    ngram_words: Annotated[int, Field(ge=3, le=100)] = 13
    drop: Literal["document", "sentence"] = "document"


class CorpusFaultToleranceConfig(Config):
    """Tolerance for unreadable input."""

    identity: ClassVar[bool] = False
    max_bad_fraction: Fraction = Field(
        default=_DEFAULT_BAD_FRACTION,
        description="per source: share of unreadable bytes and of rejected documents; a truncated file is an error "
        "unless this is above its default",
    )

    @property
    def allows_truncated_files(self) -> bool:
        """True if truncated files are read. Off by default, because the size of the missing part is unknown."""
        return self.max_bad_fraction > _DEFAULT_BAD_FRACTION


class BuildCorpusConfig(RayJobConfig):
    """Recipe of `jobs.build_corpus`."""

    sources: Annotated[list[Source], Field(min_length=1)]
    filters: FilterConfig = FilterConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    decontamination: DecontaminationConfig | None = None
    tokenizer_path: InputFile | None = Field(
        default=None, description="`tokenizer.json` that counts tokens for the report; default: words and punctuation"
    )
    fault_tolerance: CorpusFaultToleranceConfig = CorpusFaultToleranceConfig()
    chunk_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=8.0, description="MB of stored input that one task reads"
    )
    file_mb: Annotated[float, Field(gt=0, le=4096)] = Field(default=64.0, description="size of an output file in MB")
    max_document_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        default=16.0, description="longer documents are quarantined"
    )

    @model_validator(mode="before")
    @classmethod
    def _default_to_wikipedia(cls, values: object) -> object:
        """Treat a source without `kind` as a Wikipedia dump, for compatibility with early recipes."""
        sources = values.get("sources") if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(sources, list):
            return values
        named = [{"kind": "wikipedia", **source} if isinstance(source, dict) else source for source in sources]
        return {**values, "sources": named}
