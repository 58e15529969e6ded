"""Interface of inference tasks: encode texts, run the model, decode its predictions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar


@dataclass(frozen=True)
class TextQuery:
    """One text. Tasks with parameters define a subclass with a field for each parameter."""

    text: str


class EncodedText(Protocol):
    """A query as token ids, plus any other data that its task needs."""

    @property
    def input_ids(self) -> Sequence[int]: ...


QueryT = TypeVar("QueryT", bound=TextQuery)
EncodedT = TypeVar("EncodedT", bound=EncodedText)
PredictionT = TypeVar("PredictionT")
AnswerT = TypeVar("AnswerT")


class Task(ABC, Generic[QueryT, EncodedT, PredictionT, AnswerT]):
    """A task with its loaded model. Thread-safe.

    Attributes:
        name: name in recipes and in the OpenAPI document.
        architecture: class name of the model in transformers.
        revision: sha256 of the files that determine the predictions.
        dtype: dtype of the weights.
    """

    name: ClassVar[str]

    def __init__(self, *, architecture: str, revision: str, dtype: str) -> None:
        self.architecture, self.revision, self.dtype = architecture, revision, dtype

    @classmethod
    @abstractmethod
    def load(cls, model_dir: str, *, precision: str = "auto", threads: int | None = None) -> Self:
        """Load a model from a local folder.

        Raises:
            InputError: a file is missing or invalid.
        """

    @property
    @abstractmethod
    def probe(self) -> QueryT:
        """Short query for warm-up and health checks."""

    @abstractmethod
    def encode(self, queries: Sequence[QueryT]) -> list[EncodedT]:
        """Return the queries as token ids. This is the only method that raises input errors.

        Raises:
            InputTextError: a query cannot be used; reports the first one.
        """

    @abstractmethod
    def run(self, encoded: Sequence[EncodedT]) -> list[PredictionT]:
        """Run the model, and return a prediction for every query."""

    @abstractmethod
    def decode(self, encoded: EncodedT, prediction: PredictionT) -> AnswerT:
        """Return the answer to a query."""

    @abstractmethod
    def response_bytes(self, encoded: EncodedT) -> int:
        """Estimate the size of the JSON answer to a query before computing it."""

    @property
    def batch_invariant(self) -> bool:
        """True if answers do not depend on the other texts of a batch.

        In float32 probabilities change by less than 1e-5. bfloat16 rounds more coarsely, and int8 chooses its scales
        per batch.
        """
        return self.dtype == "float32"

    def info(self) -> dict[str, object]:
        """Return the properties that clients can query."""
        names = ("architecture", "revision", "dtype", "batch_invariant")
        return {name: getattr(self, name) for name in names}


AnyTask = Task[Any, Any, Any, Any]
