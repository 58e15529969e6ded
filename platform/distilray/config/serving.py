"""Configs of the fill-mask application, `jobs.serve_fill_mask` and `jobs.check_service`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, InputDir, RayConfig, RayJobConfig, Text

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]

# Upper bounds of the limits below, which the request parser enforces while it reads a list.
MAX_ITEMS = 1000
MAX_TARGETS = 10_000
MAX_TOP_K = 100


class LimitsConfig(Config):
    """Limits of one replica. Requests that exceed them are answered with 408, 413, 422, 429 or 504.

    Each cost is checked before the work that it bounds: characters before tokenization; tokens, candidates and response
    size before the model runs.
    """

    max_body_bytes: Count = 2_000_000
    max_items: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = Field(default=32, description="texts per request")
    max_chars: Count = Field(default=20_000, description="characters per text, checked before tokenization")
    max_request_chars: Count = Field(default=200_000, description="characters of all texts of a request")
    max_request_tokens: Count = Field(default=16_384, description="tokens of all texts of a request")
    max_masks: Count = Field(default=32, description="masks per text")
    max_top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = MAX_TOP_K
    max_targets: Annotated[int, Field(ge=1, le=MAX_TARGETS)] = 1000
    max_target_chars: Count = Field(default=20_000, description="characters of all targets of a request")
    max_candidates: Count = Field(default=10_000, description="candidates per request: masks x candidates per mask")
    max_response_bytes: Count = Field(default=4_000_000, description="estimated size of the response")
    max_concurrent_requests: Count = Field(default=128, description="requests in progress or queued on a replica")
    max_queued_tokens: Count = Field(default=65_536, description="tokens waiting for the model")
    body_timeout_s: Seconds = Field(default=10.0, description="time for the body of a request to arrive")
    deadline_s: Seconds = Field(default=10.0, description="time for an answer after the request was read")


class FillMaskAppConfig(Config):
    """Argument of `serve.app:build_app`."""

    task: str = Field(default="fill-mask", description="task of the models: a row of serve/routes.py")
    model_dir: InputDir = Field(description="model folder, or run folder of a training job, present on every node")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="auto: fp32, or the precision of an ONNX model; bf16 is faster, but answers depend on the load",
    )
    model_name: ModelName = Field(default="student", description="name of the model of model_dir in /info")
    extra_models: dict[ModelName, InputDir] = Field(
        default={}, description="name -> folder of models that are loaded on demand, when a request names them"
    )
    max_loaded_extra_models: Count = Field(
        default=1, description="maximum number of extra_models in the memory of a replica"
    )
    limits: LimitsConfig = LimitsConfig()
    max_batch_rows: Count = Field(default=32, description="texts of concurrent requests in one forward pass")
    max_batch_tokens: Count = Field(default=4096, description="tokens per batch; larger requests are split")
    access_log: bool = Field(default=False, description="log a JSON line for every request, not only for failures")
    num_replicas: Count = 1
    num_cpus: Count = Field(default=1, description="CPUs and torch threads of a replica")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if self.model_name in self.extra_models:
            raise ValueError(f"extra_models: {self.model_name} is the name of the model of model_dir; choose another")
        return self


class ServeFillMaskConfig(Config):
    """Recipe of `jobs.serve_fill_mask`."""

    app: FillMaskAppConfig
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=8000, description="0 chooses a free port")
    proxy: Literal["python", "haproxy"] = Field(
        default="python", description="haproxy has several times the throughput, and opens two more ports"
    )
    shed_above: Count | None = Field(
        default=None, description="with proxy=haproxy: requests per replica above which HAProxy itself answers 429"
    )
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _shedding_needs_haproxy(self) -> Self:
        if self.shed_above is not None and self.proxy != "haproxy":
            raise ValueError("shed_above: only HAProxy can do that; add proxy=haproxy, or remove shed_above")
        return self


class CheckServiceConfig(RayJobConfig):
    """Recipe of `jobs.check_service`."""

    model_dir: InputDir = Field(description="model folder, or run folder of a training job, on this machine")
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)] = Field(
        default=["Paris is [MASK] of France"], description="texts to send to the service, each with a mask"
    )
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = Field(default=3, description="candidates for the first text")
