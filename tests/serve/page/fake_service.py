"""Service without a model for tests of the page; the sentence determines its response."""

import asyncio

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from serve.page.routes import page_routes

MASK = "[MASK]"
KEY = "a-key"
TEACHER = [("capital", 0.8213), ("heart", 0.0611), ("center", 0.0304), ("city", 0.0102), ("jewel", 0.0051)]
STUDENT = [("capital", 0.6127), ("city", 0.1218), ("heart", 0.0533), ("largest", 0.0214), ("##s", 0.000004)]
RARE = [("a", 0.9991), ("b", 0.0071), ("c", 0.0004), ("d", 0.0000121), ("e", 0.00000007)]
MARKUP = [("<img src=x onerror=alert(1)>", 0.5)]
TIMES = {"x-queue-time": "0.4", "x-inference-time": "11.8", "x-model-revision": "3f2a91c0d4e5b6a7"}


class FakeService:
    """Application that records its requests.

    Attributes:
        bodies: bodies of the fill-mask requests, in order.
        address: URL, once it is served.
    """

    def __init__(self, *models, key=None):
        self.bodies, self.address, self._models, self._key = [], "", models, key
        self.api = FastAPI(docs_url=None, redoc_url=None)
        self.api.include_router(page_routes())
        self.api.add_route("/info", self.info)
        self.api.add_route("/v1/fill-mask", self.fill_mask, methods=["POST"])

    async def info(self, request):
        """Return the information about the models; a single model is not listed."""
        if not self._has_access(request):
            return _error(401, "no valid API key", "Unauthorized")
        several = {"models": list(self._models)} if len(self._models) > 1 else {}
        return JSONResponse({"model": self._models[0], "mask_token": MASK, "limits": {"max_top_k": 20}, **several})

    async def fill_mask(self, request):
        body = await request.json()
        self.bodies.append(body)
        text, model = body["inputs"], body.get("model", self._models[0])
        if not self._has_access(request):
            return _error(401, "no valid API key", "Unauthorized")
        if "busy" in text:
            return _error(429, "64 requests are being worked on", "Overloaded", {"retry-after": "7"})
        if "half" in text and body.get("model") == self._models[0]:
            return _error(503, "the model is not ready", "Unavailable")
        if "slow" in text:
            await asyncio.sleep(1)
        if "page" in text:
            return JSONResponse("<html>not ours</html>", 502, media_type="text/html")
        if MASK not in text:
            return _error(422, f"text 0: no mask token; write {MASK} where a word is wanted", "NoMask")
        words = STUDENT if model == self._models[-1] else TEACHER
        words = RARE if "rare" in text else MARKUP if "markup" in text else words
        candidates = [
            {"score": score, "token": sum(map(ord, word)), "token_str": word, "sequence": "LOWERED"}
            for word, score in words
        ]
        masks = [candidates] * text.count(MASK)
        return JSONResponse(masks[0] if len(masks) == 1 else masks, headers=TIMES)

    def _has_access(self, request):
        return self._key is None or request.headers.get("authorization") == f"Bearer {self._key}"


def _error(status, message, error_type, headers=None):
    return JSONResponse({"error": message, "error_type": error_type, "request_id": "request-7"}, status, headers)
