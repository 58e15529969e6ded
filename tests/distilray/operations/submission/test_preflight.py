from distilray.config.base import JobConfig
from distilray.config.distillation import DistillConfig
from distilray.operations.submission.cluster import DriverResources
from distilray.operations.submission.preflight import doubts

PLAIN = JobConfig(run_dir="/r")
NOTHING = DriverResources()
MACHINES = [{"CPU": 8.0, "memory": 64e9}, {"CPU": 16.0, "GPU": 4.0, "memory": 32e9}]


def distill(**scaling):
    return DistillConfig(run_dir="/r", shards_dir="/s", teacher_dir="/t", scaling=scaling)


def test_what_fits_is_not_doubted():
    assert doubts(NOTHING, PLAIN, MACHINES) == []
    assert doubts(DriverResources(num_cpus=16, num_gpus=4), PLAIN, MACHINES) == []
    assert doubts(NOTHING, distill(num_workers=4, cpus_per_worker=4), MACHINES) == []


def test_the_command_itself_must_fit_on_one_machine():
    (line,) = doubts(DriverResources(num_gpus=1, memory_bytes=int(50e9)), PLAIN, MACHINES)
    assert line.startswith("no machine has 1 GPU and 50.0 GB of memory for the driver now: the job waits")


def test_workers_may_lie_on_all_machines_together():
    (line,) = doubts(NOTHING, distill(num_workers=8, cpus_per_worker=3), MACHINES)
    assert line.startswith("the workers need 8 GPU, the cluster has 4 now")


def test_workers_that_may_be_fewer_ask_for_the_fewest():
    assert doubts(NOTHING, distill(num_workers=8, min_workers=2), MACHINES) == []


def test_workers_without_a_gpu_ask_for_none():
    assert doubts(NOTHING, distill(num_workers=2, use_gpu=False), [{"CPU": 8.0}]) == []
