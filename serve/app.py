"""Ray Serve application: `serve run serve.app:build_app model_dir=...`, or `serve deploy serve/config.yaml`."""

import asyncio
import contextlib
import functools
import io
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.util import metrics as ray_metrics

from distilray.config.recipe import hint
from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.model_folder import check_model_folder
from distilray.runtime import storage
from distilray.runtime.resources import Need, ensure_capacity
from serve import ingress
from serve.auth import keys_from_environment
from serve.checks import available_port, base_url, check_application
from serve.models import CachedModel, Load, ModelCache, Models
from serve.routes import create_api, routes_for_task
from serve.service import InferenceThreads, ModelService
from serve.telemetry.json_logging import configure_json_logging
from serve.telemetry.metrics import Telemetry

APPLICATION = "fill-mask"
_HEALTH_PERIOD_S = 10.0
_HEALTH_TIMEOUT_S = 10.0
# Serve's timeout starts when it sends the check, ours when the replica starts to handle it.
_HEALTH_MARGIN_S = 5.0
# Requests beyond its limit that Serve sends to a replica, so that the replica itself can reject them with a JSON body.
_REJECTABLE_REQUESTS = 512
# Serve's own limit, in case replicas cannot even reject requests fast enough.
_MAX_QUEUED_REQUESTS = 512
# Retry once because storage may fail for a moment; a broken model folder fails every time.
_CONSTRUCTOR_ATTEMPTS = 2
# Serve rounds up, so even a single replica is replaced only after its successor is ready.
_SURGE_PERCENT = 25
# Time for a stopping replica to finish its requests; longer than their deadline.
_GRACE_S = 20.0
# Serve responds to a timeout in plain text, so its request timeout must be longer than ours.
_TIMEOUT_MARGIN_S = 5.0


@ray_serve.ingress()
class Replica:
    """Process that serves the HTTP API; it is ready once the default model is loaded and warmed up.

    Further models are loaded on demand. All models share one set of inference threads.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        configure_json_logging()
        self._config = FillMaskAppConfig.model_validate(config)
        self._keys = keys_from_environment(os.environ)
        replica = ray_serve.get_replica_context().replica_id.unique_id
        self._telemetry = Telemetry(replica=replica, cluster=ray_metrics)
        self._threads = InferenceThreads(self._config.num_cpus)
        self._loading = ThreadPoolExecutor(1, "loading", initializer=torch.set_num_threads, initargs=(1,))
        others = self._config.extra_models
        for folder in others.values():
            check_model_folder(folder)  # fail the deployment instead of the first request for this model
        default = self._threads.run_blocking(
            lambda: self._create_service(self._config.model_name, self._config.model_dir)
        )
        wrap = functools.partial(_multiplexed, max_models=self._config.max_loaded_extra_models)
        timeout_s = self._config.limits.deadline_s / 2
        cache = ModelCache(
            others, self._start_service, wrap=wrap, load_timeout_s=timeout_s, on_close=self._record_model
        )
        self._models = Models(default, name=self._config.model_name, others=tuple(others), load=cache.service)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Create the API; Serve calls this hook once per replica."""
        api = create_api(
            self._models,
            telemetry=self._telemetry,
            keys=self._keys,
            access_log=self._config.access_log,
            sends_request_id=False,  # Serve's HTTP server adds it to responses
        )
        ingress.install(api.state.gateway)
        return api

    async def check_health(self) -> None:
        """Run one forward pass; Serve replaces a replica that fails this probe."""
        await self._models.default.check_health(timeout_s=_HEALTH_TIMEOUT_S)

    def _create_service(self, name: str, folder: str) -> ModelService:
        task_class = routes_for_task(self._config.task).task
        task = task_class.load(folder, precision=self._config.precision, threads=self._config.num_cpus)
        report = functools.partial(self._telemetry.record_batch, model=name)
        service = ModelService(task, self._config, report=report, threads=self._threads)
        self._record_model(name, service, in_memory=True)
        return service

    def _record_model(self, name: str, service: ModelService, *, in_memory: bool = False) -> None:
        task = service.task
        self._telemetry.record_model(name, revision=task.revision, dtype=task.dtype, in_memory=in_memory)

    async def _start_service(self, name: str, folder: str) -> ModelService:
        service = await asyncio.get_running_loop().run_in_executor(self._loading, self._create_service, name, folder)
        try:
            await service.start()
        except Exception:
            await service.close()
            raise
        return service


def _multiplexed(load: Load, *, max_models: int) -> Load:
    """Wrap a loader in Serve's LRU cache, which reports the loaded models to Serve's router."""

    @ray_serve.multiplexed(max_num_models_per_replica=max_models)
    async def cached(name: str) -> CachedModel:
        return await load(name)

    return cast("Load", cached)


def build_app(args: FillMaskAppConfig | Mapping[str, Any]) -> Application:
    """Build the application for `serve run`, `serve deploy` and KubeRay's RayService.

    Raises:
        InputError: the arguments do not match `FillMaskAppConfig`.
    """
    try:
        config = FillMaskAppConfig.model_validate(args)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, message = ".".join(str(part) for part in first["loc"]), first["msg"]
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            message = f"unknown key; {hint(key, FillMaskAppConfig.model_fields)}"
        raise InputError(f"arguments of build_app: {key}: {message}") from None
    deployment = ray_serve.deployment(
        Replica,
        name="FillMask",
        num_replicas=config.num_replicas,
        ray_actor_options={"num_cpus": config.num_cpus, "runtime_env": {"env_vars": dict(ingress.ENVIRONMENT)}},
        max_ongoing_requests=config.limits.max_concurrent_requests + _REJECTABLE_REQUESTS,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S + _HEALTH_MARGIN_S,
        graceful_shutdown_timeout_s=_GRACE_S,
        max_constructor_retry_count=_CONSTRUCTOR_ATTEMPTS,
        max_surge_percent=_SURGE_PERCENT,
    )
    # Leave out the number of replicas: changing it must not restart the running ones.
    return deployment.bind(config.model_dump(exclude={"num_replicas"}))


@contextlib.contextmanager
def serving(config: FillMaskAppConfig, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """Serve in the open Ray session until the block ends, and yield the base URL.

    Args:
        config: settings of the application; its model folders must be on this machine.
        host: address to listen on.
        port: 0 selects a free port.

    Raises:
        InputError: the model is missing, an API key is invalid, the port is in use, the session has too few CPUs, or
            the cluster already serves an application, which would be stopped at the end of the block.
    """
    check_application(config)
    if ray_serve.status().proxies:
        raise InputError(
            "this cluster already serves an application; use `serve deploy` to add another, or another cluster"
        )
    port = available_port(host, port)
    remedy = "lower app.num_cpus or app.num_replicas"
    ensure_capacity(Need("replica", remedy, cpus=config.num_cpus, count=config.num_replicas), job="serve_fill_mask")
    config = _absolute(config)
    timeout_s = config.limits.body_timeout_s + config.limits.deadline_s + _TIMEOUT_MARGIN_S
    http_options = {"host": host, "port": port, "request_timeout_s": timeout_s}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # hide progress messages
    logging_config = {"log_level": "WARNING", "enable_access_log": False}
    ray_serve.start(proxy_location="HeadOnly", http_options=http_options, logging_config=logging_config)
    try:
        ray_serve.run(build_app(config), name=APPLICATION, route_prefix="/", logging_config=logging_config)
        yield base_url(host, port)
    finally:
        # During shutdown, Ray prints an error about its own call to the stopped controller to stdout.
        with contextlib.redirect_stdout(io.StringIO()):
            ray_serve.shutdown()


def _absolute(config: FillMaskAppConfig) -> FillMaskAppConfig:
    """Make the model folders absolute, because replicas have another working directory."""
    extra_models = {name: str(storage.local_path(folder)) for name, folder in config.extra_models.items()}
    model_dir = str(storage.local_path(config.model_dir))
    return config.model_copy(update={"model_dir": model_dir, "extra_models": extra_models})
