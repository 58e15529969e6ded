"""Values of the configuration reach the queue and the threads of the service."""

from types import SimpleNamespace

import pytest

from distilray.config.serving import FillMaskAppConfig
from distilray.inference.tasks.fill_mask import FillMaskQuery
from serve.budget import Budget
from serve.service import InferenceThreads, ModelService, _steps
from tests.serve.contract.clients import FILL, TEXT, client_of, service_of

TOKENS = 7  # of TEXT


def config_of(model_dir, **values):
    return FillMaskAppConfig.model_validate({"model_dir": model_dir, **values})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("values", "rows"),
    [({"max_batch_rows": 3}, 3), ({"max_batch_rows": 32}, 9), ({"max_batch_tokens": 3 * TOKENS}, 3)],
    ids=str,
)
async def test_a_batch_has_at_most_the_configured_rows_and_tokens(model, model_dir, values, rows):
    reports = []
    service = ModelService(model, config_of(model_dir, **values), report=reports.append)
    await service.start()
    await service.answer([FillMaskQuery(TEXT)] * 9, Budget())
    await service.close()
    assert max((report.rows, report.tokens) for report in reports) == (rows, rows * TOKENS)


@pytest.mark.anyio
@pytest.mark.parametrize("cpus", [1, 3])
async def test_a_single_batch_has_all_threads_and_others_have_one_each(model, model_dir, cpus):
    import torch

    assert ModelService(model, config_of(model_dir, num_cpus=cpus))._threads.cpus == cpus
    threads = InferenceThreads(cpus)
    assert await threads.run(torch.get_num_threads, alone=True) == threads.run_blocking(torch.get_num_threads) == cpus
    assert await threads.run(torch.get_num_threads, alone=False) == 1
    threads.close()


def test_steps_have_at_most_the_given_size_or_one_larger_entry():
    assert list(_steps([3, 3, 4, 12, 1], 10)) == [slice(0, 3), slice(3, 4), slice(4, 5)]


def test_times_in_the_headers_are_milliseconds(model, model_dir, monkeypatch):
    with client_of(service_of(model, model_dir)) as client:
        answer = ModelService.answer

        async def slow(self, queries, budget):
            answers, result = await answer(self, queries, budget)
            return answers, SimpleNamespace(tokens=result.tokens, queue_s=0.25, inference_s=1.5)

        monkeypatch.setattr(ModelService, "answer", slow)
        headers = client.post(FILL, json={"inputs": [TEXT]}).headers
    assert (float(headers["x-queue-time"]), float(headers["x-inference-time"])) == (250.0, 1500.0)
