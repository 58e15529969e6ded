"""What can be wrong with a text to fill."""

from typing import Literal

from distilray.errors import InputError

Kind = Literal["no_mask", "too_long", "too_many_masks", "encoding", "targets"]


class InputTextError(InputError):
    """A text that cannot be filled. The message names its place in the list and the fix, and never quotes it.

    Attributes:
        kind: what is wrong, for callers that answer each kind in their own way.
        index: place of the text in the list that was given.
    """

    def __init__(self, kind: Kind, index: int, problem: str) -> None:
        super().__init__(f"text {index}: {problem}")
        self.kind, self.index = kind, index
