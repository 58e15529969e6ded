"""The service tried out: started on a free port of the loopback, asked over real HTTP, shut down."""

import json
import time
import urllib.request
from typing import Any

from distilray.config.serving import FillMaskAppConfig
from distilray.runtime.reporting.progress import duration
from serve.app import serving

REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/score", {"input_data": ["Paris is the [MASK] of France."]}),
    ("/v1/fill-mask", {"inputs": "Paris is the [MASK] of France.", "parameters": {"top_k": 3}}),
)


def try_service(model_dir: str) -> list[str]:
    """Serves a model folder, sends a request in each form, and returns requests and answers as lines of text."""
    started = time.monotonic()
    lines: list[str] = []
    with serving(FillMaskAppConfig(model_dir=model_dir), port=0) as url:
        for path, body in REQUESTS:
            lines += [f"POST {path} {json.dumps(body)}", f"  -> {json.dumps(_post(url + path, body))}"]
    print(f"serve_fill_mask: {len(REQUESTS)} requests answered in {duration(time.monotonic() - started)}", flush=True)
    return lines


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the address of our own server
        return json.load(answer)
