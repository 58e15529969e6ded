"""The stage `check_service`: serves a model on a free port of the loopback and sends it requests over HTTP."""

import json
import urllib.request
from typing import Any

from distilray.config.serving import CheckServiceConfig, FillMaskAppConfig
from distilray.runtime import storage
from distilray.runtime.job import Outcome, Quantity
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session
from serve.local.checks import check_application

ANSWERS_FILE = "answers.json"


def plan_check_service(config: CheckServiceConfig) -> dict[str, object]:
    """Validate the model folder and describe the requests."""
    check_application(FillMaskAppConfig(model_dir=config.model_dir))
    requests = requests_of(config)
    sent = ", ".join(f"POST {path}" for path, _ in requests)
    return {"model": config.model_dir, "requests": Quantity(sent, len(requests), "requests")}


def check_service(config: CheckServiceConfig, folder: RunFolder) -> Outcome:
    """Write `answers.json`."""
    from serve.app import serving  # Ray Serve, which only runs need

    answers = []
    with ray_session(config.ray), serving(FillMaskAppConfig(model_dir=config.model_dir), port=0) as url:
        for path, body in requests_of(config):
            answers.append({"path": path, "request": body, "answer": _post(url + path, body)})
    storage.write_bytes(folder.path(ANSWERS_FILE), json.dumps(answers, indent=1).encode())
    outputs = folder.describe_outputs([ANSWERS_FILE])
    return Outcome(f"{len(answers)} requests answered", {"requests": len(answers)}, outputs)


def show_answers(folder: RunFolder) -> None:
    """Print the requests and their answers."""
    for each in json.loads(storage.read_bytes(folder.path(ANSWERS_FILE))):
        print(f"POST {each['path']} {json.dumps(each['request'])}\n  -> {json.dumps(each['answer'])}", flush=True)


def requests_of(config: CheckServiceConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return path and body of each request: all texts in Azure's form, and the first one in that of the hub."""
    return [
        ("/score", {"input_data": config.texts}),
        ("/v1/fill-mask", {"inputs": config.texts[0], "parameters": {"top_k": config.top_k}}),
    ]


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the address of our own server
        return json.load(answer)
