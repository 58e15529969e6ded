"""What the tests of the contract share: texts, small limits, a model with a gate, and the envelope of errors."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMask
from serve.errors import ERROR_TYPES
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from serve.telemetry.metrics import Telemetry

TEXT = "paris is [MASK] of france"
TWO = "[MASK] is a [MASK]"
FILL, SCORE = "/v1/fill-mask", "/score"
JSON = {"content-type": "application/json"}
LIMITS = {"max_body_bytes": 20_000, "max_items": 4, "max_masks": 3, "max_top_k": 50, "max_chars": 5000}
WARM_UP_BATCHES = 3


def assert_error(response: Any, status: int, error_type: str | None = None) -> None:
    """An answer is an error of the table: status, type, and the envelope with nothing beside it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert body["error_type"] == (error_type or ERROR_TYPES[status])
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Two lists of candidates are the same, scores within 1e-5."""
    assert [one | {"score": 0} for one in ours] == [one | {"score": 0} for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def service_of(model: Any, model_dir: str, **limits: Any) -> ModelService:
    """A service, not started."""
    return ModelService(model, FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": limits}))


class GatedModel:
    """A model that waits before each forward, the warm-up aside, until its gate is open.

    Attributes:
        batches: rows of each forward that began.
    """

    def __init__(self, model: FillMask) -> None:
        self._model, self.gate = model, threading.Event()
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, encoded: Any) -> Any:
        self.batches.append(len(encoded))
        if self.forwards:
            assert self.gate.wait(30)
        return self._model.run(encoded)

    @property
    def forwards(self) -> list[int]:
        """Rows of each forward that began after the warm-up."""
        return self.batches[WARM_UP_BATCHES:]


@contextlib.contextmanager
def gated_client(
    model: FillMask, model_dir: str, *, telemetry: Telemetry | None = None, **limits: Any
) -> Iterator[tuple[GatedModel, ModelService, TestClient]]:
    """A client of a service whose model is gated; the gate opens at the end."""
    gated = GatedModel(model)
    service = service_of(gated, model_dir, **limits)
    with TestClient(create_api(Models(service), telemetry=telemetry), raise_server_exceptions=False) as client:
        try:
            yield gated, service, client
        finally:
            gated.gate.set()


def in_threads(client: TestClient, bodies: list[Any]) -> tuple[list[threading.Thread], list[Any]]:
    """Requests that run, and the list that their answers come into, in the order of the bodies."""
    answers: list[Any] = [None] * len(bodies)

    def ask(place: int) -> None:
        answers[place] = client.post(FILL, json=bodies[place])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, answers
