"""The service as a Ray Serve application: `serve run serve.app:build_app model_dir=...`, or `serve/config.yaml`."""

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

from distilray.config.serving import FillMaskAppConfig
from distilray.errors import InputError
from distilray.inference.model_folder import check_model_folder
from distilray.runtime import storage
from distilray.runtime.resources import Need, ensure_capacity
from serve import ingress
from serve.auth import keys_from_environment
from serve.checks import check_application
from serve.ingress import available_port, base_url
from serve.models import CachedModel, Load, ModelCache, Models
from serve.routes import create_api, routes_for_task
from serve.service import InferenceThreads, ModelService
from serve.telemetry.json_logging import configure_json_logging
from serve.telemetry.metrics import Telemetry

APPLICATION = "fill-mask"
_HEALTH_PERIOD_S = 10.0
_HEALTH_TIMEOUT_S = 10.0
# Serve counts a health check from the moment it is sent, also while a long forward runs.
_HEALTH_MARGIN_S = 5.0
# Requests that a replica takes beyond its own limit, to answer them with 429 and the envelope.
_TURNED_AWAY_AT_ONCE = 512
# Backstop in front of the replicas, when even turning away takes too long.
_MAX_QUEUED_REQUESTS = 512
# A second try helps where storage failed for a moment; a bad model folder fails each time.
_CONSTRUCTOR_TRIES = 2
# Of the replicas, rounded up: a new one is ready before the old one stops, also where there is one alone.
_SURGE_PERCENT = 25
# Time to answer what a stopping replica holds; more than its deadline.
_GRACE_S = 20.0
# Serve's own timeout answers in plain text; ours comes first.
_TIMEOUT_MARGIN_S = 5.0


@ray_serve.ingress()
class Replica:
    """One process behind the HTTP API; ready when its default model is loaded and warmed up.

    Further models are loaded when requests name them. All share the threads of their forwards.
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
            check_model_folder(folder)  # a slip is a deployment that fails, and not a request that fails later
        default = self._threads.share(lambda: self._service(self._config.model_name, self._config.model_dir))
        cache = functools.partial(_multiplexed, most=self._config.max_loaded_extra_models)
        load_timeout_s = self._config.limits.deadline_s / 2
        loaded = ModelCache(
            others, self._start, cache=cache, load_timeout_s=load_timeout_s, dropped=self._show_in_memory
        )
        self._models = Models(default, name=self._config.model_name, others=tuple(others), load=loaded.service)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve's hook, called once in the replica: the API over this replica's model."""
        api = create_api(
            self._models,
            telemetry=self._telemetry,
            keys=self._keys,
            access_log=self._config.access_log,
            sends_request_id=False,  # Serve's HTTP server sends it in every mode
        )
        ingress.install(api.state.gateway)
        return api

    async def check_health(self) -> None:
        """Serve's probe: a forward; a replica that fails it is replaced."""
        await self._models.default.check_health(timeout_s=_HEALTH_TIMEOUT_S)

    def _service(self, name: str, folder: str) -> ModelService:
        task_class = routes_for_task(self._config.task).task
        task = task_class.load(folder, dtype=self._config.dtype, threads=self._config.num_cpus)
        report = functools.partial(self._telemetry.batch, model=name)
        service = ModelService(task, self._config, report=report, threads=self._threads)
        self._show_in_memory(name, service, in_memory=True)
        return service

    def _show_in_memory(self, name: str, service: ModelService, *, in_memory: bool = False) -> None:
        task = service.task
        self._telemetry.model(name, revision=task.revision, dtype=task.dtype, in_memory=in_memory)

    async def _start(self, name: str, folder: str) -> ModelService:
        service = await asyncio.get_running_loop().run_in_executor(self._loading, self._service, name, folder)
        try:
            await service.start()
        except Exception:
            await service.close()
            raise
        return service


def _multiplexed(load: Load, *, most: int) -> Load:
    """The loader with Serve's cache around it, which holds the models that were used last and reports them."""

    @ray_serve.multiplexed(max_num_models_per_replica=most)
    async def cached(name: str) -> CachedModel:
        return await load(name)

    return cast("Load", cached)


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
        Replica,
        name="FillMask",
        num_replicas=config.num_replicas,
        ray_actor_options={"num_cpus": config.num_cpus, "runtime_env": {"env_vars": dict(ingress.ENVIRONMENT)}},
        max_ongoing_requests=config.limits.max_concurrent_requests + _TURNED_AWAY_AT_ONCE,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S + _HEALTH_MARGIN_S,
        graceful_shutdown_timeout_s=_GRACE_S,
        max_constructor_retry_count=_CONSTRUCTOR_TRIES,
        max_surge_percent=_SURGE_PERCENT,
    )
    # Without the number of replicas: changing it alone adds or stops some, and restarts none.
    return deployment.bind(config.model_dump(exclude={"num_replicas"}))


@contextlib.contextmanager
def serving(config: FillMaskAppConfig, *, host: str = "127.0.0.1", port: int = 8000) -> Iterator[str]:
    """Serves on this machine, in the Ray session that is open, until the block ends; gives the base URL.

    Args:
        config: with a model folder of this machine.
        host: loopback unless others shall reach it.
        port: 0 takes a free one.

    Raises:
        InputError: missing model, bad API key, port taken, more CPUs requested than the session can have, or a cluster
            that serves already, which the end of the block would stop.
    """
    check_application(config)
    if ray_serve.status().proxies:
        raise InputError(
            "this cluster serves an application already; use `serve deploy` for another, or another cluster"
        )
    port = available_port(host, port)
    remedy = "lower app.num_cpus or app.num_replicas"
    ensure_capacity(Need("replica", remedy, cpus=config.num_cpus, count=config.num_replicas), job="serve_fill_mask")
    config = _absolute(config)
    timeout_s = config.limits.body_timeout_s + config.limits.deadline_s + _TIMEOUT_MARGIN_S
    http_options = {"host": host, "port": port, "request_timeout_s": timeout_s}
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


def _absolute(config: FillMaskAppConfig) -> FillMaskAppConfig:
    """The config with folders that mean the same in every process."""
    more = {name: str(storage.local_path(folder)) for name, folder in config.extra_models.items()}
    model_dir = str(storage.local_path(config.model_dir))
    return config.model_copy(update={"model_dir": model_dir, "extra_models": more})
