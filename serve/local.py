"""The stage `check_service`: serves a model on a free port of the loopback and sends it requests over HTTP.

The server on this machine: the application in a local Ray session until a signal comes.
"""

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

from distilray.config.serving import CheckServiceConfig, FillMaskAppConfig, ServeFillMaskConfig
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.environment import environment, inside_cluster
from distilray.runtime.job import Outcome, Quantity
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session
from serve.checks import check_application
from serve.haproxy import find_orphans, haproxy_environment, stop_orphans
from serve.ingress import ENVIRONMENT, available_port, base_url, curl_command


def serve_until_stopped(config: ServeFillMaskConfig, *, dry_run: bool = False) -> None:
    """Serves until SIGINT or SIGTERM, then shuts down in order; a dry run only says what it would do.

    Raises:
        InputError: missing model, bad API key or port taken, before anything starts; or more CPUs asked than there are.
    """
    check_application(config.app)
    if config.proxy == "haproxy" and inside_cluster():
        raise InputError("proxy=haproxy: the nodes of a cluster choose their proxy when `ray start` starts them")
    if not dry_run:
        for pid in stop_orphans():
            print(f"serve_fill_mask: ended HAProxy {pid}, which a killed server had left behind", flush=True)
    port = _claim_port(config.host, config.port)
    if dry_run:
        lines = [f"{key:<24} {value}" for key, value in _plan(config, port).items()]
        print("\n".join(["serve_fill_mask: plan, nothing started", *lines]), flush=True)
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment({**ENVIRONMENT, **os.environ}))  # what the user has set stays
        if config.proxy == "haproxy":
            body_timeout_s = config.app.limits.body_timeout_s
            stack.enter_context(haproxy_environment(shed_above=config.shed_above, body_timeout_s=body_timeout_s))
        _serve(config, port)
    print("serve_fill_mask: stopped", flush=True)


def _serve(config: ServeFillMaskConfig, port: int) -> None:
    from serve.app import serving  # Ray Serve chooses the proxy when it is imported

    # The signals last: Ray sets its own handler of SIGTERM when the session starts.
    with ray_session(config.ray), serving(config.app, host=config.host, port=port) as url, stop_signals() as stop:
        print(f"serve_fill_mask: {config.app.model_dir} at {url} until Ctrl-C; try\n  {curl_command(url)}", flush=True)
        stop.wait()


def _plan(config: ServeFillMaskConfig, port: int) -> dict[str, object]:
    plan: dict[str, object] = {"model": config.app.model_dir}
    plan |= {f"model {name}": folder for name, folder in config.app.extra_models.items()}
    plan |= {"address": base_url(config.host, port), "proxy": config.proxy}
    if config.proxy == "haproxy":
        plan["shed_above"] = "off" if config.shed_above is None else f"{config.shed_above} requests per replica"
        plan["open on every interface"] = "two free ports: HAProxy's metrics and statistics, both read-only"
    return plan | config.app.limits.model_dump()


def _claim_port(host: str, port: int) -> int:
    try:
        return available_port(host, port)
    except InputError as error:
        left = " ".join(str(each.pid) for each in find_orphans())
        hint = f"; HAProxy without a Ray process, perhaps left behind by a killed one: `kill {left}`" if left else ""
        raise InputError(f"{error}{hint}") from None


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets while the block runs; the handlers from before come back after it."""
    stop = threading.Event()
    previous = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


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
