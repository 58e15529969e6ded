"""The service as a Ray Serve application: `serve run serve.app:build_app model_dir=...`, or `serve/config.yaml`."""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.fill_mask import FillMask
from distilray.inference.model_folder import check_model_folder
from distilray.runtime import storage
from serve.fill_mask import FillMaskService
from serve.local.address import base_url, claim_port
from serve.models import Models
from serve.routes import create_api

APPLICATION = "fill-mask"
_HEALTH_TIMEOUT_S = 10.0
# Serve counts a health check from the moment it is sent, also while a long forward runs.
_HEALTH_MARGIN_S = 5.0
# Requests that a replica takes beyond its own limit, to answer them with 429 and the envelope.
_TURNED_AWAY_AT_ONCE = 64
# Backstop in front of the replicas, when even turning away takes too long.
_MAX_QUEUED_REQUESTS = 256
# Serve's own timeout answers in plain text; ours comes first.
_TIMEOUT_MARGIN_S = 5.0


@ray_serve.ingress()
class FillMaskReplica:
    """One model in one process, behind the HTTP API; ready when the model is loaded and warmed up."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = FillMaskAppConfig.model_validate(config)
        model = FillMask.load(self._config.model_dir, dtype=self._config.dtype, threads=self._config.num_cpus)
        self._models = Models(FillMaskService(model, self._config), name=self._config.model_name)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook, called once in the replica: the API over this replica's model."""
        return create_api(self._models, sends_request_id=False)  # Serve's HTTP server sends it in every mode

    async def check_health(self) -> None:
        """Serve's probe: a forward; a replica that fails it is replaced."""
        await self._models.default.check_health(timeout_s=_HEALTH_TIMEOUT_S)


def build_app(args: FillMaskAppConfig | Mapping[str, Any]) -> Application:
    """The application, from its arguments alone: `serve run`, `serve deploy` and RayService share it.

    Raises:
        InputError: arguments that are not those of `FillMaskAppConfig`.
    """
    try:
        config = FillMaskAppConfig.model_validate(args)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"arguments of build_app: {key}: {first['msg']}") from None
    deployment = ray_serve.deployment(
        FillMaskReplica,
        name="FillMask",
        num_replicas=config.num_replicas,
        ray_actor_options={"num_cpus": config.num_cpus},
        max_ongoing_requests=config.limits.max_concurrent_requests + _TURNED_AWAY_AT_ONCE,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=10,
        health_check_timeout_s=_HEALTH_TIMEOUT_S + _HEALTH_MARGIN_S,
        graceful_shutdown_timeout_s=20,
        max_constructor_retry_count=3,
    )
    return deployment.bind(config.model_dump())


@contextlib.contextmanager
def serving(config: FillMaskAppConfig, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """Serves on this machine, in the Ray session that is open, until the block ends; gives the base URL.

    Args:
        config: with a model folder of this machine.
        host: loopback unless others shall reach it.
        port: 0 takes a free one.

    Raises:
        InputError: missing model, port taken, or more CPUs asked than the session has.
    """
    check_model_folder(config.model_dir)
    port = claim_port(host, port)
    wanted, there = config.num_cpus * config.num_replicas, int(ray.cluster_resources().get("CPU", 0))
    if wanted > there:
        raise InputError(f"app.num_cpus x app.num_replicas is {wanted}, and the Ray session has {there} CPUs; ask less")
    config = config.model_copy(update={"model_dir": str(storage.local_path(config.model_dir))})
    http_options = {"host": host, "port": port, "request_timeout_s": config.limits.deadline_s + _TIMEOUT_MARGIN_S}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its notes on every step say nothing to a user
    logging_config = {"log_level": "WARNING", "enable_access_log": False}
    ray_serve.start(proxy_location="HeadOnly", http_options=http_options, logging_config=logging_config)
    try:
        ray_serve.run(build_app(config), name=APPLICATION, route_prefix="/", logging_config=logging_config)
        yield base_url(host, port)
    finally:
        # While it ends Serve, Ray prints to stdout that a call to the controller that it has just ended has failed.
        with contextlib.redirect_stdout(io.StringIO()):
            ray_serve.shutdown()
