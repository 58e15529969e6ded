"""Answers of the API equal those of transformers' pipeline: alone, in one request, and in random batches."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx2
import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMask
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.serve.contract.clients import FILL, assert_close
from tests.tiny.models import write_tiny_model
from tests.tiny.words import WORDS

REAL_MODEL = Path("runs/quickstart/student/model")
ODD_WORDS = [
    "Zürich!",
    "it's",
    "walking,",
    "日本",
    "🙂",
    "👩‍👩‍👧",
    "é̂̃",
    "שלום",
    "\u202e",
    "a\u0000b",
    "x" * 150,
    "[SEP]",
]
TARGETS = [["rome"], ["rome", "paris", "cat"], ["cat", "cat", "sun"], ["Cat", "dog"], ["Paris", "a"]]
INPUTS = 200


class Peer:
    """Service and transformers pipeline for the same model."""

    def __init__(self, model_dir: str) -> None:
        model = AutoModelForMaskedLM.from_pretrained(model_dir)
        self._pipeline = pipeline("fill-mask", model=model, tokenizer=AutoTokenizer.from_pretrained(model_dir))
        self._model_dir, self._model = model_dir, FillMask.load(model_dir, dtype="float32")
        self.batches: list[tuple[int, int]] = []

    def expected(self, body: dict[str, Any]) -> list[Any]:
        """Return the answer of the pipeline, which warns of unknown targets."""
        return self._pipeline(body["inputs"], **body.get("parameters", {}))

    def answers(self, bodies: list[dict[str, Any]], *, at_once: int) -> list[Any]:
        """Return the answers of the service with concurrent requests, and record (requests, rows) of batches."""
        return asyncio.run(self._answers(bodies, at_once))

    async def _answers(self, bodies: list[dict[str, Any]], at_once: int) -> list[Any]:
        config = FillMaskAppConfig.model_validate({"model_dir": self._model_dir, "limits": {"max_items": INPUTS}})
        self.batches = []
        service = ModelService(
            self._model, config, report=lambda batch: self.batches.append((len(batch.queue_s), batch.rows))
        )
        api, semaphore = create_api(Models(service)), asyncio.Semaphore(at_once)
        async with (
            api.router.lifespan_context(api),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api), base_url="http://test") as client,
        ):

            async def ask(body: dict[str, Any]) -> Any:
                async with semaphore:
                    answer = await client.post(FILL, json=body)
                assert answer.status_code == 200, answer.text
                return answer.json()

            return await asyncio.gather(*(ask(body) for body in bodies))


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def peer(request, tmp_path_factory):
    return Peer(write_tiny_model(tmp_path_factory.mktemp(request.param), request.param))


def random_bodies(count: int, *, words: list[str], seed: int = 11) -> list[dict[str, Any]]:
    """Generate bodies that differ in text, masks, top_k and targets."""
    rng = random.Random(seed)
    bodies = []
    for number in range(count):
        text = rng.choices(words, k=rng.randint(1, 12))
        for _ in range(rng.choice([1, 1, 2, 3])):
            text.insert(rng.randint(0, len(text)), "[MASK]")
        parameters: dict[str, Any] = {"top_k": rng.choice([1, 2, 5, 17, 100])} if number % 3 else {}
        if number % 4 == 0:
            parameters["targets"] = rng.choice(TARGETS)
        bodies.append({"inputs": " ".join(text), "parameters": parameters})
    return bodies


BODIES = random_bodies(INPUTS, words=[*WORDS, *ODD_WORDS])


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        several = isinstance(other[0], list)
        assert isinstance(one[0], list) == several
        for mask, expected in zip(one if several else [one], other if several else [other], strict=True):
            assert_close(mask, expected)


def test_the_inputs_differ():
    assert len({str(body) for body in BODIES}) == INPUTS
    assert {body["inputs"].count("[MASK]") for body in BODIES} >= {1, 2, 3}


def test_single_requests_have_the_answers_of_the_pipeline(peer):
    answers = peer.answers(BODIES, at_once=1)
    assert_same(answers, [peer.expected(body) for body in BODIES])
    assert {requests for requests, _ in peer.batches} == {1}


def test_texts_of_one_request_are_answered_as_by_the_pipeline(peer):
    texts = [body["inputs"] for body in BODIES]
    (answer,) = peer.answers([{"inputs": texts}], at_once=1)
    assert_same(answer, [peer.expected({"inputs": text}) for text in texts])


@pytest.mark.parametrize("seed", [1, 2])
def test_requests_in_random_batches_have_the_answers_of_the_pipeline(peer, seed):
    order = random.Random(seed).sample(BODIES, INPUTS)
    answers = peer.answers(order, at_once=48)
    assert_same(answers, [peer.expected(body) for body in order])
    assert max(requests for requests, _ in peer.batches) >= 8
    assert len(peer.batches) < INPUTS / 2


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="no model of the quickstart; `make quickstart` makes one")
def test_a_model_of_the_quickstart_answers_as_by_the_pipeline():
    peer = Peer(str(REAL_MODEL))
    words = ["the", "a", "city", "river", "was", "born", "in", "of", "capital", "is", "known", "for", "music", "people"]
    bodies = [
        {"inputs": body["inputs"], "parameters": {"top_k": 5}} for body in random_bodies(50, words=[*words, *ODD_WORDS])
    ]
    answers = peer.answers(bodies, at_once=16)
    assert_same(answers, [peer.expected(body) for body in bodies])
    assert max(requests for requests, _ in peer.batches) > 1
