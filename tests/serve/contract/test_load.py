import time

from tests.serve.contract.clients import FILL, TEXT, assert_error, gated_client, in_threads
from tests.serve.waiting import wait_for

BODY = {"inputs": TEXT}


def finish(gated, threads):
    gated.gate.set()
    for thread in threads:
        thread.join(30)


def statuses(answers):
    return [answer.status_code for answer in answers]


def test_an_answer_past_the_deadline_is_504(model, model_dir):
    with gated_client(model, model_dir, deadline_s=0.2) as (_, _, client):
        assert_error(client.post(FILL, json=BODY), 504)


def test_more_requests_than_allowed_are_429_with_retry_after_and_probes_pass(model, model_dir):
    with gated_client(model, model_dir, max_concurrent_requests=2) as (gated, service, client):
        threads, answers = in_threads(client, [BODY] * 2)
        wait_for(lambda: service.answering == 2)
        response = client.post(FILL, json=BODY)
        assert_error(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
        finish(gated, threads)
    assert statuses(answers) == [200, 200]


def test_more_waiting_tokens_than_allowed_are_429_with_retry_after_and_not_ready(model, model_dir):
    with gated_client(model, model_dir, max_queued_tokens=7) as (gated, _, client):
        threads, answers = in_threads(client, [BODY])
        wait_for(lambda: gated.forwards)
        more, more_answers = in_threads(client, [BODY])
        wait_for(lambda: client.get("/readyz").status_code == 503)
        response = client.post(FILL, json=BODY)
        assert_error(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        finish(gated, threads + more)
    assert statuses(answers + more_answers) == [200, 200]


def test_a_service_that_answers_nothing_within_its_deadline_is_not_ready_until_it_answers(model, model_dir):
    with gated_client(model, model_dir, deadline_s=0.2) as (gated, _, client):
        assert client.get("/readyz").status_code == 200
        assert_error(client.post(FILL, json=BODY), 504)
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/healthz").status_code == 200
        gated.gate.set()
        wait_for(lambda: client.get("/readyz").status_code == 200)


def test_bad_input_alone_leaves_a_service_ready(model, model_dir):
    with gated_client(model, model_dir, deadline_s=0.05) as (_, _, client):
        for _ in range(5):
            assert_error(client.post(FILL, json={"inputs": "no blank"}), 422, "NoMask")
            time.sleep(0.02)
        assert client.get("/readyz").status_code == 200


def test_requests_that_arrive_during_a_forward_share_the_next_one(model, model_dir):
    with gated_client(model, model_dir) as (gated, service, client):
        first, answers = in_threads(client, [BODY])
        wait_for(lambda: gated.forwards)
        others, other_answers = in_threads(client, [BODY] * 8)
        wait_for(lambda: service.answering == 9)
        time.sleep(0.1)  # the last one passes from the tokeniser into the queue
        finish(gated, first + others)
        assert gated.forwards == [1, 8]
    assert set(statuses(answers + other_answers)) == {200}


def test_requests_of_one_batch_keep_their_own_parameters(model, model_dir):
    counts = [1, 3, 7, 20]
    with gated_client(model, model_dir) as (gated, service, client):
        first, _ = in_threads(client, [BODY])
        wait_for(lambda: gated.forwards)
        threads, answers = in_threads(client, [BODY | {"parameters": {"top_k": count}} for count in counts])
        wait_for(lambda: service.answering == 5)
        time.sleep(0.1)
        finish(gated, first + threads)
        assert gated.forwards == [1, 4]
    assert [len(answer.json()) for answer in answers] == counts
