"""The arguments of a template, and the marks that stand for what is not words."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HOLE = "\ufffc"  # "object replacement character": a formula, code, an address
GAP = "\ue006"  # something that shows no words: brackets and spaces around it may need repair
UNKNOWN = "\ufdd0"  # a template without a rule; its name follows in private-use characters
PARAGRAPH = "\n\n"

_NAME_PLANE = 0xF0000
_MAX_NAME = 100
UNKNOWN_PATTERN = f"{UNKNOWN}[\U000f0000-\U000fffff]*"


def unknown_template(name: str) -> str:
    """The mark of a use of a template without a rule. It has no letters or signs that text is split at."""
    return UNKNOWN + "".join(chr(_NAME_PLANE + ord(sign) % 0x10000) for sign in " ".join(name.split())[:_MAX_NAME])


def unknown_names(text: str) -> list[str]:
    """The names in the marks of a text."""
    marks = re.findall(UNKNOWN_PATTERN, text)
    return ["".join(chr(ord(sign) - _NAME_PLANE) for sign in mark[1:]) for mark in marks]


@dataclass(frozen=True)
class Arguments:
    """The arguments of one use of a template as plain text: `values["1"]` is the first without a name."""

    values: Mapping[str, str]

    def get(self, *names: str) -> str:
        """The first of these arguments that is not empty, else the empty string."""
        return next((self.values[name] for name in names if self.values.get(name)), "")

    def positional(self) -> list[str]:
        """The arguments without a name, up to the first that is missing."""
        listed: list[str] = []
        while (value := self.values.get(str(len(listed) + 1))) is not None:
            listed.append(value)
        return listed


Rule = Callable[[Arguments], str]
