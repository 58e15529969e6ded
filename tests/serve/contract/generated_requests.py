"""Requests that schemathesis makes from the OpenAPI document, sent, and the answers held against the document."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

# Where a request is right by the document and wrong by what the document cannot say: no mask in a text, a limit of the
# config, a name that no model has.
_BEYOND_THE_SCHEMA = ["404", "413", "422"]


@dataclass
class Outcome:
    """What came of the requests.

    Attributes:
        statuses: how often each was answered.
        faults: of the answers, and of the run itself.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return self.statuses.total()


def config_of(max_examples: int, *, boundaries: bool = True, key: str = "") -> SchemathesisConfig:
    """All checks, and the same requests at every run.

    Args:
        max_examples: random ones for each route with a body.
        boundaries: also some 250 at the boundaries of the schema.
        key: for a service that wants one.
    """
    return SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"max-examples": max_examples, "deterministic": True, "database": "none"},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ["2xx", "429", *_BEYOND_THE_SCHEMA]},
                "negative_data_rejection": {"expected-statuses": ["4xx"]},
            },
            # A browser that opens the root is led to the page for people, which is no part of the document.
            "operations": [{"include-path": "/", "checks": {"unsupported_method": {"enabled": False}}}],
            "phases": {"coverage": {"enabled": boundaries}},
            "auth": {"openapi": {"header": {"api_key": key}}} if key else {},
        }
    )


def send_generated(schema: Any) -> Outcome:
    """Sends requests to every route of a document."""
    outcome = Outcome()
    schema.hook(map_body)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _record(outcome, event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            outcome.faults.append(str(event))
    return outcome


def load_from_application(api: Any, **config: Any) -> Any:
    """The document of an application of this process."""
    return schemathesis.openapi.from_asgi("/openapi.json", api, config=config_of(**config))


def load_from_server(url: str, **config: Any) -> Any:
    """The document of a server."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=config_of(**config), timeout=30)


def map_body(_: Any, body: Any) -> Any:
    """Schemathesis's hook: puts a mask into half of the texts, or hardly any would reach the model."""
    if not isinstance(body, dict):
        return body
    return {key: _masked(value) if key in {"inputs", "input_data"} else value for key, value in body.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str) and len(value) % 2 == 0:
        return f"{value} [MASK]"
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if isinstance(value, dict):
        return {key: _masked(each) if key in {"data", "input_string"} else each for key, each in value.items()}
    return value


def _record(outcome: Outcome, recorder: Any) -> None:
    for identity, node in recorder.cases.items():
        response = recorder.interactions[identity].response
        outcome.statuses[response.status_code] += 1
        for check in recorder.checks.get(identity, ()):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                outcome.faults.append(
                    f"{recorder.label}: {check.name}: {failure.title}: {failure.message}\n"
                    f"  {node.value.as_curl_command()}\n  {response.status_code} {response.text[:300]}"
                )
