"""What can be wrong with a text to fill."""

from typing import Literal

from distilray.errors import InputError

Kind = Literal["no_mask", "too_long", "too_many_masks", "encoding", "targets"]


class InputTextError(InputError):
    """A text or target that cannot be used. The message names its index and the fix, and never quotes it.

    Attributes:
        kind: for callers that handle each kind differently.
        index: of the text, or of the target, in its list.
    """

    def __init__(self, kind: Kind, index: int, problem: str, *, target: bool = False) -> None:
        super().__init__(f"targets[{index}]: {problem}" if target else f"text {index}: {problem}")
        self.kind, self.index = kind, index
        self._problem, self._target = problem, target

    def moved(self, first: int) -> "InputTextError":
        """The same error in a longer list of texts, of which this one's begins at index `first`."""
        return self if self._target else InputTextError(self.kind, first + self.index, self._problem)
