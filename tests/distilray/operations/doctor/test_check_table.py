import pytest

from distilray.config.distillation import DistillConfig
from distilray.errors import InputError
from distilray.operations.doctor import check_table
from distilray.operations.doctor.check import CheckResult, run_checks
from distilray.operations.doctor.check_table import CHECKS, CheckContext, applicable_checks
from distilray.operations.doctor.cluster import ClusterNode, ClusterState
from distilray.operations.doctor.machine import Gpu, TorchBuild

DASHBOARD, GCS = "http://127.0.0.1:8265", "10.0.0.1:6379"
CAPACITY = {"memory", "shared memory", "spill disk", "cache disk", "gpu", "threads"}
OF_RECIPE = {"workers", "runs", "models", "storage"}
NODES = (ClusterNode(0, 0, 7e9, is_head=True), ClusterNode(96, 8, 1e9, is_head=False))


def context_of(address=None, config=None, storage_uri=None, **environment) -> CheckContext:
    return CheckContext(address, config, storage_uri, environment)


def recipe(**changes) -> DistillConfig:
    values = {"run_dir": "/x/run", "shards_dir": "/x/shards", "teacher_dir": "/x/teacher"}
    return DistillConfig.model_validate({**values, **changes})


def results(context: CheckContext, *names: str, **options: float) -> list[CheckResult]:
    return list(run_checks([check for check in applicable_checks(context) if check.name in names], **options))


def statuses(context: CheckContext, *names: str) -> list[str]:
    return [result.status for result in results(context, *names)]


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(check_table.clusters, "read_cluster", lambda *_: ClusterState(DASHBOARD, "2.60.0", NODES))


@pytest.mark.parametrize(
    ("context", "added", "removed"),
    [
        (context_of(DASHBOARD), {"jobs api", "cluster"}, CAPACITY),  # a machine that only submits
        (context_of(GCS), {"cluster"}, set()),
        (context_of(RAY_ADDRESS=GCS), {"cluster"}, set()),
        (context_of(DASHBOARD, RAY_ADDRESS=GCS), {"jobs api", "cluster"}, set()),  # in a submitted job
        (context_of(config=recipe()), {*OF_RECIPE, "run disk"}, set()),
        (context_of(GCS, recipe()), {*OF_RECIPE, "run disk", "cluster", "folders"}, set()),
        (context_of(DASHBOARD, recipe()), {*OF_RECIPE, "jobs api", "cluster", "folders"}, CAPACITY),
        (context_of(None, recipe(), RAY_ADDRESS=DASHBOARD), {*OF_RECIPE, "jobs api", "cluster", "folders"}, CAPACITY),
        (context_of(storage_uri="/x"), {"run disk", "storage"}, set()),
        (context_of(storage_uri="s3://bucket/run"), {"storage"}, set()),
    ],
    ids=lambda value: str(value)[:150] if isinstance(value, CheckContext) else "",
)
def test_cluster_recipe_and_machine_select_the_checks(context, added, removed):
    alone = {check.name for check in applicable_checks(context_of())}
    assert alone >= {*CAPACITY, "ray", "ports", "proxies"}
    assert {check.name for check in applicable_checks(context)} == (alone | added) - removed
    assert context.is_outside is bool(removed)


def test_the_names_of_checks_are_unique():
    names = [each.name for each in CHECKS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_an_address_with_a_password_is_refused_and_not_shown(scheme):
    with pytest.raises(InputError, match="--address") as raised:
        context_of(f"{scheme}me:pa55w0rd@host:8265")
    assert "pa55w0rd" not in str(raised.value)


def test_the_workers_of_a_recipe_are_compared_with_the_cluster(cluster):
    assert statuses(context_of(DASHBOARD, recipe()), "workers", "cluster") == ["ok", "ok"]
    assert statuses(context_of(DASHBOARD, recipe(scaling={"num_workers": 16})), "workers") == ["fail"]


@pytest.mark.parametrize(("num_cpus", "gpus", "status"), [(32, 8, "ok"), (31, 8, "fail"), (32, 7, "fail")])
def test_without_a_cluster_the_workers_are_compared_with_this_machine(monkeypatch, num_cpus, gpus, status):
    build = TorchBuild("2.13", "12.8", "570.1", (Gpu("NVIDIA H100", 80 * 10**9, (9, 0)),) * gpus)
    monkeypatch.setattr(TorchBuild, "of", lambda: build)
    config = recipe(ray={"num_cpus": num_cpus}, scaling={"num_workers": 8, "cpus_per_worker": 4})
    assert statuses(context_of(config=config), "workers") == [status]


def test_a_cluster_that_does_not_answer_fails_once(free_port):
    closed = context_of(f"http://127.0.0.1:{free_port()}", recipe())
    assert statuses(closed, "jobs api", "cluster", "workers") == ["fail", "fail", "warn"]


def test_a_hanging_cluster_is_contacted_once(monkeypatch, hang):
    requests = []
    monkeypatch.setattr(check_table.clusters, "read_cluster", lambda *values: requests.append(values) or hang())
    first, second = results(context_of(GCS, recipe()), "ray", "cluster", timeout_s=0.5)
    assert "no answer" in first.message
    assert "does not answer" in second.message
    assert len(requests) == 1


def test_the_object_store_of_the_head_is_used(cluster):
    assert context_of("auto").store_bytes == 7e9


def test_without_a_reachable_cluster_the_object_store_is_that_of_a_local_ray(free_port):
    local = context_of().store_bytes
    assert local > 0
    assert context_of(f"127.0.0.1:{free_port()}").store_bytes == local
    assert context_of(config=recipe(ray={"object_store_mb": 100})).store_bytes == 100 << 20
