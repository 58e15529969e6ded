"""Service on this machine: `jobs.serve_fill_mask` and `jobs.check_service`."""

import contextlib
import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from distilray.config.serving import CheckServiceConfig, FillMaskAppConfig, ServeFillMaskConfig
from distilray.console import format_entries
from distilray.errors import InputError
from distilray.runtime import storage
from distilray.runtime.environment import inside_cluster, temporary_environment
from distilray.runtime.job import Outcome, Quantity
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.session import ray_session
from serve.checks import available_port, base_url, check_application
from serve.haproxy import find_orphans, haproxy_environment, stop_orphans
from serve.ingress import ENVIRONMENT

RESPONSES_FILE = "answers.json"


def serve_until_stopped(
    config: ServeFillMaskConfig, *, dry_run: bool = False, write_json: Callable[[object], None] = lambda value: None
) -> None:
    """Serve until SIGINT or SIGTERM, then shut down cleanly; a dry run only prints the plan.

    Args:
        write_json: receives the plan as JSON values, or the address once the service is ready.

    Raises:
        InputError: before anything starts, if the model is missing, an API key is invalid, or the port is in use; later
            if the machine has too few CPUs.
    """
    check_application(config.app)
    if config.proxy == "haproxy" and inside_cluster():
        raise InputError("proxy=haproxy: the nodes of a cluster choose their proxy when `ray start` starts them")
    if not dry_run:
        for pid in stop_orphans():
            print(f"serve_fill_mask: terminated HAProxy process {pid} of a killed server", flush=True)
    port = _available_port(config.host, config.port)
    if dry_run:
        plan = _plan(config, port)
        print(f"serve_fill_mask: plan, nothing started\n{format_entries(plan, label_width=24)}", flush=True)
        write_json({"job": "serve_fill_mask", "plan": plan})
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(temporary_environment({**ENVIRONMENT, **os.environ}))  # the user's variables win
        if config.proxy == "haproxy":
            body_timeout_s = config.app.limits.body_timeout_s
            stack.enter_context(haproxy_environment(shed_above=config.shed_above, body_timeout_s=body_timeout_s))
        _serve(config, port, write_json)
    print("serve_fill_mask: stopped", flush=True)


def _serve(config: ServeFillMaskConfig, port: int, write_json: Callable[[object], None]) -> None:
    from serve.app import serving  # importing Ray Serve reads the environment variables that select the proxy

    # Install the signal handlers last, because Ray replaces the SIGTERM handler when the session starts.
    with ray_session(config.ray), serving(config.app, host=config.host, port=port) as url, _stop_signals() as stop:
        print(f"serve_fill_mask: {config.app.model_dir} at {url} until Ctrl-C; try\n  {_curl_command(url)}", flush=True)
        write_json({"job": "serve_fill_mask", "model_dir": config.app.model_dir, "url": url})
        stop.wait()


def _plan(config: ServeFillMaskConfig, port: int) -> dict[str, object]:
    plan: dict[str, object] = {"model": config.app.model_dir}
    plan |= {f"model {name}": folder for name, folder in config.app.extra_models.items()}
    plan |= {"address": base_url(config.host, port), "proxy": config.proxy}
    if config.proxy == "haproxy":
        plan["shed_above"] = "off" if config.shed_above is None else f"{config.shed_above} requests per replica"
        plan["open on every interface"] = "two free ports for HAProxy's metrics and statistics, both read-only"
    return plan | config.app.limits.model_dump()


def _available_port(host: str, port: int) -> int:
    """Return `available_port`; its error lists the HAProxy processes that may occupy the port."""
    try:
        return available_port(host, port)
    except InputError as error:
        pids = " ".join(str(orphan.pid) for orphan in find_orphans())
        hint = f"; HAProxy without a Ray process, perhaps of a killed server: `kill {pids}`" if pids else ""
        raise InputError(f"{error}{hint}") from None


def _curl_command(url: str) -> str:
    body = json.dumps({"input_data": ["Paris is [MASK] of France"]})
    return f"curl {url}/score -H 'content-type: application/json' -d '{body}'"


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set, and restore the signal handlers afterwards."""
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def plan_check_service(config: CheckServiceConfig) -> dict[str, object]:
    """Validate the inputs of `check_service` and return its plan."""
    check_application(FillMaskAppConfig(model_dir=config.model_dir))
    requests = sample_requests(config)
    paths = ", ".join(f"POST {path}" for path, _ in requests)
    return {"model": config.model_dir, "requests": Quantity(paths, len(requests), "requests")}


def check_service(config: CheckServiceConfig, folder: RunFolder) -> Outcome:
    """Serve the model on a free loopback port, send it requests, and store the responses."""
    from serve.app import serving  # Ray Serve is only needed here

    exchanges = []
    with ray_session(config.ray), serving(FillMaskAppConfig(model_dir=config.model_dir), port=0) as url:
        for path, body in sample_requests(config):
            exchanges.append({"path": path, "request": body, "answer": _post(url + path, body)})
    storage.write_bytes(folder.path(RESPONSES_FILE), json.dumps(exchanges, indent=1).encode())
    outputs = folder.describe_outputs([RESPONSES_FILE])
    return Outcome(f"{len(exchanges)} requests answered", {"requests": len(exchanges)}, outputs)


def show_answers(folder: RunFolder) -> None:
    """Print the requests and their responses."""
    for exchange in json.loads(storage.read_bytes(folder.path(RESPONSES_FILE))):
        request, response = json.dumps(exchange["request"]), json.dumps(exchange["answer"])
        print(f"POST {exchange['path']} {request}\n  -> {response}", flush=True)


def sample_requests(config: CheckServiceConfig) -> list[tuple[str, dict[str, Any]]]:
    """Return path and body of each request: all texts in Azure's format, the first one in Hugging Face's."""
    return [
        ("/score", {"input_data": config.texts}),
        ("/v1/fill-mask", {"inputs": config.texts[0], "parameters": {"top_k": config.top_k}}),
    ]


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - the address of our own server
        return json.load(response)
