"""What the fill-mask application and `jobs.serve_fill_mask` may be told."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, InputDir, RayConfig, RayJobConfig, Text

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]

# Upper bounds of the limits: no request with longer lists is parsed to its end.
MAX_ITEMS = 1000
MAX_TARGETS = 10_000
MAX_TOP_K = 100


class LimitsConfig(Config):
    """Limits of one replica; a request beyond them is answered with 408, 413, 422, 429 or 504.

    The cost of a request is checked before the work that it bounds: characters before tokenization; tokens, candidates
    and the size of the response before the model runs.
    """

    max_body_bytes: Count = 2_000_000
    max_items: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = Field(default=32, description="texts in a request")
    max_chars: Count = Field(default=20_000, description="characters of a text, checked before tokenization")
    max_request_chars: Count = Field(default=200_000, description="characters of all texts of a request")
    max_request_tokens: Count = Field(default=16_384, description="tokens of all texts of a request")
    max_masks: Count = Field(default=32, description="masks in a text")
    max_top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = MAX_TOP_K
    max_targets: Annotated[int, Field(ge=1, le=MAX_TARGETS)] = 1000
    max_target_chars: Count = Field(default=20_000, description="characters of all targets of a request")
    max_candidates: Count = Field(default=10_000, description="candidates of a request: masks x candidates per mask")
    max_response_bytes: Count = Field(default=4_000_000, description="estimated size of the response")
    max_concurrent_requests: Count = Field(default=128, description="requests that a replica works on or holds")
    max_queued_tokens: Count = Field(default=65_536, description="tokens that wait for the model")
    body_timeout_s: Seconds = Field(default=10.0, description="time for the body of a request to arrive")
    deadline_s: Seconds = Field(default=10.0, description="time for an answer once the request was read")


class FillMaskAppConfig(Config):
    """The argument of `serve.app:build_app`."""

    task: str = Field(default="fill-mask", description="what requests ask of the models: a row of serve/routes.py")
    model_dir: InputDir = Field(description="model folder, or run of a training job, on every node")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto is float32, or the type of an ONNX model; bfloat16 is faster, and answers depend on the load",
    )
    model_name: ModelName = Field(default="student", description="what /info calls the model of model_dir")
    extra_models: dict[ModelName, InputDir] = Field(
        default={}, description="name -> folder of models that are loaded when a request names them"
    )
    max_loaded_extra_models: Count = Field(default=1, description="of extra_models in the memory of a replica at once")
    limits: LimitsConfig = LimitsConfig()
    max_batch_rows: Count = Field(default=32, description="texts of concurrent requests that share a forward")
    max_batch_tokens: Count = Field(default=4096, description="tokens of a batch; a larger request is split")
    access_log: bool = Field(default=False, description="a JSON line for every request, not only for failures")
    num_replicas: Count = 1
    num_cpus: Count = Field(default=1, description="CPUs of a replica, and its torch threads")

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        if self.model_name in self.extra_models:
            raise ValueError(f"extra_models: {self.model_name} is the name of the model of model_dir; choose another")
        return self


class ServeFillMaskConfig(Config):
    """Recipe of `jobs.serve_fill_mask`."""

    app: FillMaskAppConfig
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=8000, description="0 takes a free one")
    proxy: Literal["python", "haproxy"] = Field(
        default="python", description="haproxy answers several times as many requests, and opens two more ports"
    )
    shed_above: Count | None = Field(
        default=None, description="with proxy=haproxy: requests per replica, beyond which HAProxy answers 429 itself"
    )
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _haproxy_sheds(self) -> Self:
        if self.shed_above is not None and self.proxy != "haproxy":
            raise ValueError("shed_above: only HAProxy can do that; add proxy=haproxy, or leave shed_above out")
        return self


class CheckServiceConfig(RayJobConfig):
    """Recipe of `jobs.check_service`."""

    model_dir: InputDir = Field(description="model folder, or run of a training job, of this machine")
    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)] = Field(
        default=["Paris is the [MASK] of France."], description="that the service fills, each with a mask"
    )
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = Field(default=3, description="candidates for the first text")
