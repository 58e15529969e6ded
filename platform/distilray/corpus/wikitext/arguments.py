"""Template arguments, and placeholder characters for content that is not text."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

HOLE = "\ufffc"  # object replacement character: a formula, code or URL; its sentence is dropped
GAP = "\ue006"  # removed invisible content; brackets and spaces around it may need repair
UNKNOWN = "\ufdd0"  # a template without a rule; its name follows in private-use characters
PARAGRAPH = "\n\n"

_NAME_PLANE = 0xF0000
_MAX_NAME = 100
UNKNOWN_PATTERN = f"{UNKNOWN}[\U000f0000-\U000fffff]*"


def unknown_template(name: str) -> str:
    """Encode the name of a template without a rule. The result contains no characters at which text is split."""
    return UNKNOWN + "".join(chr(_NAME_PLANE + ord(char) % 0x10000) for char in " ".join(name.split())[:_MAX_NAME])


def unknown_names(text: str) -> list[str]:
    """Decode the names of the templates without a rule in a text."""
    placeholders = re.findall(UNKNOWN_PATTERN, text)
    return ["".join(chr(ord(char) - _NAME_PLANE) for char in placeholder[1:]) for placeholder in placeholders]


@dataclass(frozen=True)
class Arguments:
    """Arguments of a template as plain text. `values["1"]` is the first unnamed one."""

    values: Mapping[str, str]

    def get(self, *names: str) -> str:
        """Return the first of these arguments that is not empty, or the empty string."""
        return next((self.values[name] for name in names if self.values.get(name)), "")

    def positional(self) -> list[str]:
        """Return the unnamed arguments, up to the first missing one."""
        listed: list[str] = []
        while (value := self.values.get(str(len(listed) + 1))) is not None:
            listed.append(value)
        return listed


Rule = Callable[[Arguments], str]
