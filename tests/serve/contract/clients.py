"""Texts, small limits, clients, and checks of responses and metrics."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from distilray.config.serving import FillMaskAppConfig
from serve.errors import ERROR_TYPES
from serve.telemetry.metrics import Telemetry

TEXT = "paris is [MASK] of france"
TWO = "[MASK] is a [MASK]"
FILL, SCORE, ROOT = "/v1/fill-mask", "/score", "/"
JSON = {"content-type": "application/json"}
LIMITS = {"max_body_bytes": 20_000, "max_items": 4, "max_masks": 3, "max_top_k": 50, "max_chars": 5000}


def assert_error(response: Any, status: int, error_type: str | None = None, message: str = "") -> None:
    """Check status and type of an error response, and that it has exactly the envelope, with a part of its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error", "error_type", "request_id"}
    assert body["error_type"] == (error_type or ERROR_TYPES[status])
    assert body["error"]
    assert message in body["error"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert status not in (429, 503) or int(response.headers["retry-after"]) >= 1


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Check that two lists of candidates are equal, with scores within 1e-5."""
    assert [one | {"score": 0} for one in ours] == [one | {"score": 0} for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)


def service_of(model: Any, model_dir: str, **limits: Any) -> Any:
    """Create a service without starting it."""
    from serve.service import ModelService  # imports torch

    return ModelService(model, FillMaskAppConfig.model_validate({"model_dir": model_dir, "limits": limits}))


def client_of(service: Any, **options: Any) -> TestClient:
    """Create a client, which starts the service when it is entered."""
    from serve.models import Models  # imports torch
    from serve.routes import create_api

    models = service if isinstance(service, Models) else Models(service)
    return TestClient(create_api(models, **options), raise_server_exceptions=False)


def metric(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    """Return the sum of the series of a metric with these labels, or None if there is no such series."""
    families = text_string_to_metric_families(telemetry.replica.expose("")[0].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    values = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
    return sum(values) if values else None
