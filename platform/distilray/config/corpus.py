"""What a recipe of `jobs.build_corpus` may say."""

from typing import Annotated, Literal

from pydantic import Field

from distilray.config.base import Config, JobConfig

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class WikipediaSource(Config):
    """A dump of MediaWiki pages: `*-pages-articles*.xml`, plain or .bz2."""

    kind: Literal["wikipedia"] = "wikipedia"
    path: Annotated[str, Field(min_length=1)] = Field(
        description="path or URI of the dump file; `sample:wikipedia` is the small real dump of the `sample` extra"
    )
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")] = Field(
        default="wikipedia", description="of the wiki; the parts of one dump share it, another wiki needs another"
    )
    licence: str = "CC-BY-SA-4.0"


class FilterConfig(Config):
    """Documents that are dropped, each for one reason that the manifest counts."""

    min_words: Annotated[int, Field(ge=0)] = 20
    min_sentences: Annotated[int, Field(ge=0)] = 2
    min_letter_fraction: Fraction = 0.5


class BuildCorpusConfig(JobConfig):
    """Recipe of `jobs.build_corpus`."""

    sources: Annotated[list[WikipediaSource], Field(min_length=1)]
    filters: FilterConfig = FilterConfig()
    pages_per_block: Count = 32  # pages that one task cleans at a time: about a second of work
    documents_per_file: Count = 10_000
    max_page_mb: Annotated[float, Field(gt=0)] = 16.0
