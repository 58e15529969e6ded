"""The server on this machine: the application in a local Ray session until a signal comes."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from distilray.config.serving import ServeFillMaskConfig
from distilray.inference.model_folder import check_model_folder
from distilray.runtime.session import ray_session
from serve.app import serving
from serve.local.address import base_url, claim_port, curl_line


def serve_until_stopped(config: ServeFillMaskConfig, *, dry_run: bool = False) -> None:
    """Serves until SIGINT or SIGTERM, then shuts down in order; a dry run only says what it would do.

    Raises:
        InputError: missing model or port taken, before anything is started; or more CPUs asked than there are.
    """
    check_model_folder(config.app.model_dir)
    port = claim_port(config.host, config.port)
    if dry_run:
        plan = {"model": config.app.model_dir, "address": base_url(config.host, port), **config.app.limits.model_dump()}
        lines = [f"{key:<24} {value}" for key, value in plan.items()]
        print("\n".join(["serve_fill_mask: plan, nothing started", *lines]), flush=True)
        return
    # The signals last: Ray sets its own handler of SIGTERM when the session starts.
    with ray_session(config.ray), serving(config.app, host=config.host, port=port) as url, stop_signals() as stop:
        print(f"serve_fill_mask: {config.app.model_dir} at {url} until Ctrl-C; try\n  {curl_line(url)}", flush=True)
        stop.wait()
    print("serve_fill_mask: stopped", flush=True)


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
