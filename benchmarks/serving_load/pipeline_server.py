"""The peer: the fill-mask pipeline of transformers behind FastAPI, as it is commonly written.

PYTHONPATH=platform:. python -m benchmarks.serving_load.pipeline_server MODEL_DIR --port PORT [--threads 2]

One process of uvicorn, fp32, a plain `def` endpoint, which FastAPI runs in its pool of threads.
"""

import argparse
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Parameters(BaseModel):
    top_k: int = 5


class FillMaskRequest(BaseModel):
    inputs: str | list[str]
    parameters: Parameters = Parameters()


def create_app(model_dir: str) -> FastAPI:
    """The API over a model folder."""
    app = FastAPI()
    unmasker = pipeline("fill-mask", model=model_dir, device="cpu", dtype=torch.float32)

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/fill-mask")
    def fill_mask(request: FillMaskRequest) -> Any:
        return unmasker(request.inputs, top_k=request.parameters.top_k)

    return app


def main() -> None:
    """Serves on loopback until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_dir")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    uvicorn.run(create_app(given.model_dir), host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
