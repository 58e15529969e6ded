"""Baseline server: the fill-mask pipeline of transformers behind FastAPI, written in the common way.

PYTHONPATH=platform:. python -m benchmarks.serving_load.pipeline_server MODEL_DIR --port PORT [--threads 2]

It has one uvicorn process, fp32, and a synchronous endpoint, which FastAPI runs in its thread pool.
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model_dir")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    uvicorn.run(create_app(args.model_dir), host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
