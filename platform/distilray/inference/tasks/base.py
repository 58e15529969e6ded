"""Interface of a task at inference: encode texts, run the model on them, decode its predictions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar


@dataclass(frozen=True)
class TextQuery:
    """One text; a task with parameters has a subclass with a field for each."""

    text: str


class EncodedText(Protocol):
    """A query as token ids, with whatever else its task needs."""

    @property
    def input_ids(self) -> Sequence[int]: ...


QueryT = TypeVar("QueryT", bound=TextQuery)
EncodedT = TypeVar("EncodedT", bound=EncodedText)
PredictionT = TypeVar("PredictionT")
AnswerT = TypeVar("AnswerT")


class Task(ABC, Generic[QueryT, EncodedT, PredictionT, AnswerT]):
    """A task over a loaded model; threads may share it.

    Attributes:
        name: as recipes and the OpenAPI document have it.
        architecture: class of the model in transformers.
        revision: sha256 of the files that decide the answers.
        dtype: of the weights.
    """

    name: ClassVar[str]

    def __init__(self, *, architecture: str, revision: str, dtype: str) -> None:
        self.architecture, self.revision, self.dtype = architecture, revision, dtype

    @classmethod
    @abstractmethod
    def load(cls, model_dir: str, *, dtype: str = "auto", threads: int | None = None) -> Self:
        """Load the model of a local folder.

        Raises:
            InputError: what is missing or unusable in the folder, and the fix.
        """

    @property
    @abstractmethod
    def probe(self) -> QueryT:
        """A short query, for warm-up and health checks."""

    @abstractmethod
    def encode(self, queries: Sequence[QueryT]) -> list[EncodedT]:
        """Return the queries as token ids; no other method raises an error of input.

        Raises:
            InputTextError: for the first query that cannot be used.
        """

    @abstractmethod
    def run(self, encoded: Sequence[EncodedT]) -> list[PredictionT]:
        """Return a prediction for every query: the work of the model alone."""

    @abstractmethod
    def decode(self, encoded: EncodedT, prediction: PredictionT) -> AnswerT:
        """Return the answer to a query."""

    @abstractmethod
    def response_bytes(self, encoded: EncodedT) -> int:
        """Estimate the size of the answer to a query as JSON, before anything is computed."""

    @property
    def batch_invariant(self) -> bool:
        """True if answers do not depend on the other texts of a batch.

        In float32 a probability changes by less than 1e-5. bfloat16 rounds more coarsely, and int8 chooses its scales
        per batch.
        """
        return self.dtype == "float32"

    def info(self) -> dict[str, object]:
        """Return the properties that clients can ask for."""
        names = ("architecture", "revision", "dtype", "batch_invariant")
        return {name: getattr(self, name) for name in names}


AnyTask = Task[Any, Any, Any, Any]
