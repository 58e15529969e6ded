"""What a template is called with, and the two marks that it can show instead of words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

HOLE = "\ufffc"  # "object replacement character": something that is not words stood here
PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class Arguments:
    """The arguments of one use of a template as plain text: `values["1"]` is the first without a name."""

    values: Mapping[str, str]

    def get(self, *names: str) -> str:
        """The first of these arguments that is not empty, else the empty string."""
        return next((self.values[name] for name in names if self.values.get(name)), "")

    def positional(self) -> list[str]:
        """The arguments without a name, up to the first that is missing."""
        found: list[str] = []
        while (value := self.values.get(str(len(found) + 1))) is not None:
            found.append(value)
        return found


Rule = Callable[[Arguments], str]
