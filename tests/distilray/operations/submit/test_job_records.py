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
def test_an_ended_attempt_is_followed_by_the_next_and_an_active_one_is_reused(statuses, number):
    known = [job(status, job_id=BASE if not n else f"{BASE}-{n + 1}") for n, status in enumerate(statuses)]
    attempt = next_attempt(BASE, [*reversed(known), job("RUNNING", job_id="other-1")])
    assert (attempt.number, attempt.last) == (number, known[-1] if known else None)
    assert attempt.id == (BASE if number == 1 else f"{BASE}-{number}")


@pytest.mark.parametrize("foreign", [f"{BASE}x", f"{BASE}-1", f"{BASE}-0", f"{BASE}-02", f"{BASE}-a", f"x-{BASE}"])
def test_the_id_of_another_command_is_no_attempt(foreign):
    assert next_attempt(BASE, [job("RUNNING", job_id=foreign)]).last is None


def other(status, run_dir="/mnt/run", *, job_id="other-1", **metadata):
    return job(status, job_id=job_id, run_dir=run_dir, **metadata)


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (other("RUNNING", "/mnt/run/"), "RUNNING"),
        (other("RUNNING", "/mnt/else\n/mnt/run\n/mnt/x"), "RUNNING"),  # a pipeline
        (other("PENDING"), "PENDING"),
        (other("PENDING", driver_resources="1 GPU"), "PENDING (its driver waits for 1 GPU)"),
        (other("SUCCEEDED"), None),
        (other("RUNNING", "/mnt/else"), None),
        (job("RUNNING", job_id="other-1"), None),  # not submitted by this command
        (other("RUNNING", job_id=f"{BASE}-2"), None),  # an attempt of the same command
    ],
)
def test_only_an_active_job_of_another_command_occupies_a_run_folder(record, status):
    if status is None:
        check_run_dir_free(BASE, "/mnt/run", [record], address=ADDRESS)
        return
    with pytest.raises(InputError) as caught:
        check_run_dir_free(BASE, "/mnt/run", [record], address=ADDRESS)
    assert f"in use by job other-1, which is {status};" in str(caught.value)
    assert f"`python -m jobs.submit --address {ADDRESS} --stop other-1`" in str(caught.value)


MACHINES = [{"CPU": 8.0, "memory": 64e9}, {"CPU": 16.0, "GPU": 4.0, "memory": 32e9}]


@pytest.mark.parametrize(
    ("driver", "scaling", "warnings"),
    [
        (DriverResources(), None, []),
        (DriverResources(num_cpus=16, num_gpus=4), None, []),
        (DriverResources(), {"num_workers": 4, "cpus_per_worker": 4}, []),
        (DriverResources(), {"num_workers": 8, "min_workers": 2}, []),
        (DriverResources(), {"num_workers": 6, "use_gpu": False, "cpus_per_worker": 4}, []),
        (
            DriverResources(num_gpus=1, memory_bytes=int(50e9)),  # not on one machine
            None,
            ["no machine has 1 GPU and 50.0 GB of memory for the driver now: the job waits"],
        ),
        (
            DriverResources(),
            {"num_workers": 8, "cpus_per_worker": 3},
            ["the workers need 8 GPU, the cluster has 4 now: the job waits"],
        ),
        (
            DriverResources(num_gpus=5),
            {"num_workers": 25, "use_gpu": False, "cpus_per_worker": 1},
            ["no machine has 5 GPU for", "the workers need 25 CPU, the cluster has 24"],
        ),
    ],
)
def test_the_driver_must_fit_on_one_machine_and_the_workers_on_all(driver, scaling, warnings):
    config = JobConfig(run_dir="/r")
    if scaling is not None:
        config = DistillConfig(run_dir="/r", shards_dir="/s", teacher_dir="/t", scaling=scaling)
    lines = capacity_warnings(driver, config, MACHINES)
    assert [line[: len(start)] for line, start in zip(lines, warnings, strict=True)] == warnings
