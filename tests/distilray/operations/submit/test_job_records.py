import re

import pytest

from distilray.config.base import JobConfig, SeededConfig
from distilray.config.distillation import DistillConfig
from distilray.errors import InputError
from distilray.operations.submit.job_records import (
    ID,
    DriverResources,
    capacity_warnings,
    check_run_dir_free,
    next_attempt,
    submission_id,
)
from tests.distilray.operations.submit.scripted_cluster import job

BASE = "distill-0123456789ab"
CONFIG = SeededConfig(run_dir="/mnt/run")
ADDRESS = "http://head:8265"
GPU = DriverResources(num_gpus=1)


def id_of(name="distill", config=CONFIG, arguments=("a=1",), driver=GPU, variables=None):
    return submission_id(name, [config], arguments, driver=driver, variables=variables or {})


def test_the_same_command_has_the_same_id():
    again = id_of(config=SeededConfig(run_dir="/mnt/run"), driver=DriverResources(num_gpus=1))
    assert id_of() == again


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "encode_corpus"},
        {"config": JobConfig(run_dir="/mnt/other")},
        {"config": SeededConfig(run_dir="/mnt/run", seed=1)},
        {"arguments": ["a=2"]},
        {"driver": DriverResources()},
        {"driver": DriverResources(num_cpus=1)},
        {"driver": DriverResources(num_gpus=1, memory_bytes=1)},
        {"variables": {"A": "1"}},
    ],
    ids=["job", "run folder", "value", "arguments", "no resources", "CPU", "memory", "variables"],
)
def test_another_command_has_another_id(changed):
    assert id_of(**changed) != id_of()


def test_an_id_has_only_letters_that_ray_and_file_systems_take():
    made = id_of("evaluate_fill_mask", arguments=["x y", "/é"])
    assert re.fullmatch(r"evaluate_fill_mask-[0-9a-f]{12}", made)
    assert ID.fullmatch(f"{made}-123456")


@pytest.mark.parametrize(
    ("statuses", "number"),
    [
        ([], 1),
        (["PENDING"], 1),
        (["RUNNING"], 1),
        (["SUCCEEDED"], 2),
        (["FAILED"], 2),
        (["STOPPED"], 2),
        (["FAILED", "RUNNING"], 2),
        (["FAILED", "FAILED"], 3),
        (["FAILED", "SUCCEEDED"], 3),
        (["FAILED"] * 9 + ["STOPPED"], 11),
    ],
)
def test_an_ended_attempt_is_followed_by_the_next_and_an_active_one_is_kept(statuses, number):
    known = [job(status, job_id=BASE if not n else f"{BASE}-{n + 1}") for n, status in enumerate(statuses)]
    attempt = next_attempt(BASE, [*reversed(known), job("RUNNING", job_id="other-1")])
    assert (attempt.number, attempt.last) == (number, known[-1] if known else None)
    assert attempt.id == (BASE if number == 1 else f"{BASE}-{number}")


@pytest.mark.parametrize("foreign", [f"{BASE}x", f"{BASE}-1", f"{BASE}-0", f"{BASE}-02", f"{BASE}-a", f"x-{BASE}"])
def test_the_id_of_another_command_is_no_attempt(foreign):
    assert next_attempt(BASE, [job("RUNNING", job_id=foreign)]).last is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (job("RUNNING", job_id="other-1", run_dir="/mnt/run/"), "other-1, which is RUNNING;"),
        (job("RUNNING", job_id="other-1", run_dir="/mnt/else\n/mnt/run\n/mnt/x"), "other-1, which is RUNNING;"),
        (job("PENDING", job_id="other-1", run_dir="/mnt/run"), "other-1, which is PENDING;"),
        (
            job("PENDING", job_id="other-1", run_dir="/mnt/run", driver_resources="1 GPU"),
            "other-1, which is PENDING (its driver waits for 1 GPU);",
        ),
    ],
    ids=["running", "running pipeline", "pending without resources", "pending for a GPU"],
)
def test_the_other_job_of_a_run_folder_is_named_with_the_command_that_stops_it(other, words):
    with pytest.raises(InputError, match="in use by job") as caught:
        check_run_dir_free(BASE, "/mnt/run", [other], address=ADDRESS)
    assert words in str(caught.value)
    assert f"`python -m jobs.submit --address {ADDRESS} --stop other-1`" in str(caught.value)


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
    check_run_dir_free(BASE, "/mnt/run", [record], address=ADDRESS)


PLAIN = JobConfig(run_dir="/r")
NOTHING = DriverResources()
MACHINES = [{"CPU": 8.0, "memory": 64e9}, {"CPU": 16.0, "GPU": 4.0, "memory": 32e9}]


def distill(**scaling):
    return DistillConfig(run_dir="/r", shards_dir="/s", teacher_dir="/t", scaling=scaling)


def test_a_job_that_fits_causes_no_warning():
    assert capacity_warnings(NOTHING, PLAIN, MACHINES) == []
    assert capacity_warnings(DriverResources(num_cpus=16, num_gpus=4), PLAIN, MACHINES) == []
    assert capacity_warnings(NOTHING, distill(num_workers=4, cpus_per_worker=4), MACHINES) == []


def test_the_command_itself_must_fit_on_one_machine():
    (line,) = capacity_warnings(DriverResources(num_gpus=1, memory_bytes=int(50e9)), PLAIN, MACHINES)
    assert line.startswith("no machine has 1 GPU and 50.0 GB of memory for the driver now: the job waits")


def test_workers_may_be_spread_over_all_machines():
    (line,) = capacity_warnings(NOTHING, distill(num_workers=8, cpus_per_worker=3), MACHINES)
    assert line.startswith("the workers need 8 GPU, the cluster has 4 now")


def test_workers_that_may_be_fewer_ask_for_the_fewest():
    assert capacity_warnings(NOTHING, distill(num_workers=8, min_workers=2), MACHINES) == []


def test_workers_without_a_gpu_ask_for_none():
    assert capacity_warnings(NOTHING, distill(num_workers=2, use_gpu=False), [{"CPU": 8.0}]) == []
