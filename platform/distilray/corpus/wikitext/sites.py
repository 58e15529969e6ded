"""Wikis: language and namespaces."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from distilray.config.corpus import normalize_name

MEDIA, FILE, TEMPLATE, CATEGORY = -2, 6, 10, 14


@dataclass(frozen=True)
class Site:
    """Language and namespaces of a wiki, from the `siteinfo` of its dump.

    Attributes:
        language: `xml:lang` of the dump, such as `de`.
        namespaces: local names by number, such as `{6: "Datei"}`. Canonical English names and the aliases of MediaWiki
            are valid on every wiki and need not be listed.
    """

    language: str = "en"
    namespaces: Mapping[int, str] = field(default_factory=dict, hash=False)

    def namespace_of(self, prefix: str) -> int | None:
        """Return the number of a namespace by its name, or None. Case and underscores are ignored."""
        return self._numbers.get(normalize_name(prefix))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        tables = (SITES["namespaces"], self.data.get("namespaces", {}))
        known = {normalize_name(name): number for table in tables for number, names in table.items() for name in names}
        return known | {normalize_name(name): number for number, name in self.namespaces.items() if name}

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """Entry of the language in `sites.yaml`. The entry `zh` also applies to `zh-hans`."""
        languages: Mapping[str, Any] = SITES["languages"]
        return languages.get(self.language) or languages.get(self.language.partition("-")[0]) or {}


SITES: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("sites.yaml").read_text(encoding="utf-8"))
ENGLISH = Site()  # the default for dumps without siteinfo
