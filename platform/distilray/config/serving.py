"""What the fill-mask application and `jobs.serve_fill_mask` may be told."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distilray.config.base import Config, Count, InputDir, RayConfig

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]

MAX_TOP_K = 100


class LimitsConfig(Config):
    """What one replica accepts; beyond it a request gets 413, 422, 429 or 504."""

    max_body_bytes: Count = 2_000_000
    max_items: Count = Field(default=32, description="texts in a request")
    max_chars: Count = Field(default=20_000, description="characters of a text, checked before it is tokenised")
    max_masks: Count = Field(default=32, description="masks in a text")
    max_top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = MAX_TOP_K
    max_targets: Count = 1000
    max_concurrent_requests: Count = Field(default=128, description="requests that a replica works on or holds")
    max_queued_tokens: Count = Field(default=65_536, description="tokens that wait for the model")
    deadline_s: Seconds = Field(default=10.0, description="time for an answer once the request was read")


class FillMaskAppConfig(Config):
    """The argument of `serve.app:build_app`."""

    model_dir: InputDir = Field(description="model folder, or run of a training job, on every node")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    model_name: ModelName = Field(default="student", description="what /info calls the model of model_dir")
    more_models: dict[ModelName, InputDir] = Field(
        default={}, description="name -> folder of models that are loaded when a request names them"
    )
    max_more_models: Count = Field(default=1, description="of more_models in the memory of a replica at once")
    limits: LimitsConfig = LimitsConfig()
    max_batch_rows: Count = Field(default=32, description="texts of concurrent requests that share a forward")
    max_batch_tokens: Count = Field(default=4096, description="their tokens; a larger request runs alone")
    access_log: bool = Field(default=False, description="a JSON line for every request, not only for failures")
    num_replicas: Count = 1
    num_cpus: Count = Field(default=1, description="CPUs of a replica, and its torch threads")

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        if self.model_name in self.more_models:
            raise ValueError(f"more_models: {self.model_name} is the name of the model of model_dir; choose another")
        return self


class ServeFillMaskConfig(Config):
    """Recipe of `jobs.serve_fill_mask`."""

    app: FillMaskAppConfig
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(default=8000, description="0 takes a free one")
    proxy: Literal["python", "haproxy"] = Field(
        default="python", description="haproxy answers several times as many requests, and opens two more ports"
    )
    ray: RayConfig = RayConfig()
