import re

import pytest

from distilray.config.base import JobConfig, SeededConfig
from distilray.errors import InputError
from distilray.operations.submission.attempts import ID, Step, check_writers, decide, submission_id
from tests.distilray.operations.submission.scripted_cluster import job

BASE = "distill-0123456789ab"
CONFIG = SeededConfig(run_dir="/mnt/run")


def test_the_same_command_has_the_same_id():
    assert submission_id("distill", CONFIG, ["a=1"]) == submission_id(
        "distill", SeededConfig(run_dir="/mnt/run"), ["a=1"]
    )


@pytest.mark.parametrize(
    ("name", "config", "arguments"),
    [
        ("encode_corpus", CONFIG, ["a=1"]),
        ("distill", JobConfig(run_dir="/mnt/other"), ["a=1"]),
        ("distill", SeededConfig(run_dir="/mnt/run", seed=1), ["a=1"]),
        ("distill", CONFIG, ["a=2"]),
    ],
    ids=["job", "run folder", "another value", "arguments"],
)
def test_another_command_has_another_id(name, config, arguments):
    assert submission_id(name, config, arguments) != submission_id("distill", CONFIG, ["a=1"])


def test_an_id_has_only_letters_that_ray_and_file_systems_take():
    made = submission_id("evaluate_fill_mask", CONFIG, ["x y", "/é"])
    assert re.fullmatch(r"evaluate_fill_mask-[0-9a-f]{12}", made)
    assert ID.fullmatch(f"{made}-123456")


@pytest.mark.parametrize(
    ("statuses", "step", "number"),
    [
        ([], Step.SUBMIT, 1),
        (["PENDING"], Step.ATTACH, 1),
        (["RUNNING"], Step.ATTACH, 1),
        (["SUCCEEDED"], Step.DONE, 1),
        (["FAILED"], Step.SUBMIT, 2),
        (["STOPPED"], Step.SUBMIT, 2),
        (["FAILED", "RUNNING"], Step.ATTACH, 2),
        (["FAILED", "FAILED"], Step.SUBMIT, 3),
        (["FAILED", "SUCCEEDED"], Step.DONE, 2),
        (["FAILED"] * 9 + ["STOPPED"], Step.SUBMIT, 11),
    ],
)
def test_the_last_attempt_decides(statuses, step, number):
    known = [job(status, job_id=BASE if not n else f"{BASE}-{n + 1}") for n, status in enumerate(statuses)]
    decision = decide(BASE, [*reversed(known), job("RUNNING", job_id="other-1")])
    assert (decision.step, decision.number) == (step, number)
    assert decision.id == (BASE if number == 1 else f"{BASE}-{number}")


def test_again_asks_for_another_attempt_after_a_success_but_not_beside_a_running_one():
    assert decide(BASE, [job("SUCCEEDED", job_id=BASE)], again=True).id == f"{BASE}-2"
    assert decide(BASE, [job("RUNNING", job_id=BASE)], again=True).step is Step.ATTACH


@pytest.mark.parametrize("foreign", [f"{BASE}x", f"{BASE}-1", f"{BASE}-0", f"{BASE}-02", f"{BASE}-a", f"x-{BASE}"])
def test_the_id_of_another_command_is_no_attempt(foreign):
    assert decide(BASE, [job("RUNNING", job_id=foreign)]).step is Step.SUBMIT


def test_two_commands_do_not_write_one_run_folder_at_a_time():
    with pytest.raises(InputError, match=r"run_dir=/mnt/run: job other-1 is RUNNING and writes there"):
        check_writers(BASE, "/mnt/run", [job("RUNNING", job_id="other-1", run_dir="/mnt/run")])


@pytest.mark.parametrize(
    "record",
    [
        job("SUCCEEDED", job_id="other-1", run_dir="/mnt/run"),
        job("RUNNING", job_id="other-1", run_dir="/mnt/else"),
        job("RUNNING", job_id="other-1"),
        job("RUNNING", job_id=f"{BASE}-2", run_dir="/mnt/run"),
    ],
    ids=["ended", "elsewhere", "of somebody else", "of this command"],
)
def test_other_jobs_do_not_bar_a_run_folder(record):
    check_writers(BASE, "/mnt/run", [record])
