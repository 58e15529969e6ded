"""Answers of the API equal those of transformers' pipeline: alone, in one request, and in random batches."""

import asyncio
import random
from pathlib import Path

import httpx2
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMask
from serve.models import Models
from serve.routes import create_api
from serve.service import ModelService
from tests.serve.contract.clients import FILL, assert_close
from tests.tiny.models import write_tiny_model
from tests.tiny.words import WORDS

pytestmark = pytest.mark.anyio
REAL_MODEL = Path("runs/quickstart/student/model")
ODD_WORDS = [
    "x" * 150,
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
    "[SEP]",
]
TARGETS = [["rome"], ["rome", "paris", "cat"], ["cat", "cat", "sun"], ["Cat", "dog"], ["Paris", "a"]]
INPUTS = 80


def random_bodies(count, words):
    """Generate bodies that differ in text, masks, top_k and targets."""
    rng = random.Random(11)
    bodies = []
    for number in range(count):
        text = rng.choices(words, k=rng.randint(1, 12))
        for _ in range(rng.choice([1, 1, 2, 3])):
            text.insert(rng.randint(0, len(text)), "[MASK]")
        parameters = {"top_k": rng.choice([1, 2, 5, 17, 100])} if number % 3 else {}
        if number % 4 == 0:
            parameters["targets"] = rng.choice(TARGETS)
        bodies.append({"inputs": " ".join(text), "parameters": parameters})
    return bodies


BODIES = random_bodies(INPUTS, [*WORDS, *ODD_WORDS])


class Peer:
    """Answers of the service and of transformers' pipeline for the same model."""

    def __init__(self, model_dir, bodies):
        self._model_dir, self._model = model_dir, FillMask.load(model_dir, precision="fp32")
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
        fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
        self.expected = [fill(body["inputs"], **body["parameters"]) for body in bodies]

    async def answers(self, bodies, *, at_once):
        """Return the answers to concurrent requests, and the number of requests in each batch."""
        config = FillMaskAppConfig.model_validate({"model_dir": self._model_dir, "limits": {"max_items": INPUTS}})
        batches = []
        service = ModelService(self._model, config, report=lambda batch: batches.append(len(batch.queue_s)))
        api, semaphore = create_api(Models(service)), asyncio.Semaphore(at_once)
        transport = httpx2.ASGITransport(app=api)
        async with api.router.lifespan_context(api), httpx2.AsyncClient(transport=transport) as client:

            async def ask(body):
                async with semaphore:
                    answer = await client.post(f"http://test{FILL}", json=body)
                assert answer.status_code == 200, answer.text
                return answer.json()

            return await asyncio.gather(*map(ask, bodies)), batches


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute the expected answers in one thread, because the threads of tiny models only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def peer(request, one_thread, tmp_path_factory):
    return Peer(write_tiny_model(tmp_path_factory.mktemp(request.param), request.param), BODIES)


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        masks = (one, other) if isinstance(other[0], list) else ([one], [other])
        for mask, expected in zip(*masks, strict=True):
            assert_close(mask, expected)


def test_the_inputs_differ():
    assert len({str(body) for body in BODIES}) == INPUTS
    assert {body["inputs"].count("[MASK]") for body in BODIES} >= {1, 2, 3}


@pytest.mark.parametrize("at_once", [1, 48])
async def test_requests_in_random_batches_have_the_answers_of_the_pipeline(peer, at_once):
    order = random.Random(at_once).sample(range(INPUTS), INPUTS)
    answers, batches = await peer.answers([BODIES[index] for index in order], at_once=at_once)
    assert_same(answers, [peer.expected[index] for index in order])
    assert max(batches) >= 8 if at_once > 1 else set(batches) == {1}


async def test_texts_of_one_request_are_answered_as_by_the_pipeline(peer):
    without_parameters = [index for index, body in enumerate(BODIES) if not body["parameters"]]
    (answer,), _ = await peer.answers(
        [{"inputs": [BODIES[index]["inputs"] for index in without_parameters]}], at_once=1
    )
    assert_same(answer, [peer.expected[index] for index in without_parameters])


@pytest.mark.slow
@pytest.mark.skipif(not REAL_MODEL.is_dir(), reason="no model of the quickstart; `make quickstart` makes one")
async def test_a_model_of_the_quickstart_answers_as_by_the_pipeline():
    words = ["the", "a", "city", "river", "was", "born", "in", "of", "capital", "is", "known", "for", "music", "people"]
    bodies = [body | {"parameters": {"top_k": 5}} for body in random_bodies(50, [*words, *ODD_WORDS])]
    peer = Peer(str(REAL_MODEL), bodies)
    answers, batches = await peer.answers(bodies, at_once=16)
    assert_same(answers, peer.expected)
    assert max(batches) > 1
