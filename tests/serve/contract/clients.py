"""Shared by the contract tests: texts, small limits, a model with a gate, and checks of responses."""

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
    """Check that a response has the status and type of an error, and exactly the envelope."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert body["error_type"] == (error_type or ERROR_TYPES[status])
    assert body["error"]
    assert body["request_id"] == response.headers["x-request-id"]


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Check that two lists of candidates are equal, with scores within 1e-5."""
    assert [one | {"score": 0} for one in ours] == [one | {"score": 0} for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def service_of(model: Any, model_dir: str, **limits: Any) -> ModelService:
    """Create a service without starting it."""
    return ModelService(model, FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": limits}))


class GatedModel:
    """Model that waits for its gate before each forward pass, except during warm-up.

    Attributes:
        batches: rows of each started forward pass.
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
        """Rows of each forward pass that started after the warm-up."""
        return self.batches[WARM_UP_BATCHES:]


@contextlib.contextmanager
def gated_client(
    model: FillMask, model_dir: str, *, telemetry: Telemetry | None = None, **limits: Any
) -> Iterator[tuple[GatedModel, ModelService, TestClient]]:
    """Client of a service with a gated model; the gate opens at the end of the block."""
    gated = GatedModel(model)
    service = service_of(gated, model_dir, **limits)
    with TestClient(create_api(Models(service), telemetry=telemetry), raise_server_exceptions=False) as client:
        try:
            yield gated, service, client
        finally:
            gated.gate.set()


def in_threads(client: TestClient, bodies: list[Any]) -> tuple[list[threading.Thread], list[Any]]:
    """Send requests from threads; return the threads and the list that receives the responses in order."""
    answers: list[Any] = [None] * len(bodies)

    def ask(index: int) -> None:
        answers[index] = client.post(FILL, json=bodies[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(bodies))]
    for thread in threads:
        thread.start()
    return threads, answers
