import threading
import time
from pathlib import Path

import pytest

from distilray.config.distillation import DistillConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.errors import InputError
from distilray.operations.doctor import check_table
from distilray.operations.doctor.check import has_hanging_check, run_checks
from distilray.operations.doctor.check_table import CHECKS, CheckContext, applicable_checks
from distilray.operations.doctor.cluster import ClusterNode, ClusterState
from distilray.operations.doctor.recipe_checks import run_bytes

DASHBOARD = "http://127.0.0.1:8265"


def subject(address=None, config=None, storage_uri=None, **environment) -> CheckContext:
    return CheckContext(address, config, storage_uri, environment)


def recipe(tmp_path, **changes) -> DistillConfig:
    values = {"run_dir": f"{tmp_path}/run", "shards_dir": f"{tmp_path}/shards", "teacher_dir": f"{tmp_path}/teacher"}
    return DistillConfig.model_validate({**values, **changes})


def names(context: CheckContext) -> list[str]:
    return [each.name for each in applicable_checks(context)]


def test_without_a_cluster_its_checks_are_left_out():
    assert not {"jobs api", "cluster", "folders"} & set(names(subject()))
    assert {"jobs api", "cluster"} <= set(names(subject(DASHBOARD)))
    assert "jobs api" not in names(subject(RAY_ADDRESS="10.0.0.1:6379"))


def test_a_recipe_adds_its_checks(tmp_path):
    plain = set(names(subject()))
    assert set(names(subject(config=recipe(tmp_path)))) - plain == {"workers", "runs", "models", "run disk", "storage"}
    assert "folders" in names(subject("10.0.0.1:6379", recipe(tmp_path)))
    assert set(names(subject(storage_uri=str(tmp_path)))) - plain == {"run disk", "storage"}
    assert set(names(subject(storage_uri="s3://bucket/run"))) - plain == {"storage"}


def test_the_names_of_checks_are_unique():
    context = [each.name for each in CHECKS]
    assert len(context) == len(set(context))


def test_a_machine_that_only_submits_is_not_checked_for_capacity(tmp_path):
    outside = subject(DASHBOARD, recipe(tmp_path))
    assert outside.is_outside
    assert not {"run disk", "memory", "shared memory", "gpu", "threads"} & set(names(outside))
    assert {"ports", "proxies", "workers", "runs"} <= set(names(outside))
    assert {"memory", "gpu"} <= set(names(subject("10.0.0.1:6379")))
    assert not subject("10.0.0.1:6379", recipe(tmp_path)).is_outside
    assert not subject(DASHBOARD, recipe(tmp_path), RAY_ADDRESS="10.0.0.1:6379").is_outside
    assert subject(None, recipe(tmp_path), RAY_ADDRESS=DASHBOARD).is_outside


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_an_address_with_a_password_is_refused_and_not_shown(scheme):
    with pytest.raises(InputError) as raised:
        subject(f"{scheme}me:pa55w0rd@host:8265")
    assert "pa55w0rd" not in str(raised.value)


def statuses(context: CheckContext, *wanted: str) -> list[str]:
    return [check.status for check in run_checks([each for each in applicable_checks(context) if each.name in wanted])]


def test_the_workers_of_a_recipe_are_compared_with_the_cluster(tmp_path, monkeypatch):
    nodes = (ClusterNode(0, 0, 1e9, is_head=True), ClusterNode(96, 8, 1e9, is_head=False))
    monkeypatch.setattr(check_table.clusters, "read_cluster", lambda *_: ClusterState(DASHBOARD, "2.60.0", nodes))
    assert statuses(subject(DASHBOARD, recipe(tmp_path)), "workers", "cluster") == ["ok", "ok"]
    more = recipe(tmp_path, scaling={"num_workers": 16})
    assert statuses(subject(DASHBOARD, more), "workers") == ["fail"]


def test_a_cluster_that_does_not_answer_fails_once(tmp_path, free_port):
    closed = subject(f"http://127.0.0.1:{free_port()}", recipe(tmp_path))
    assert statuses(closed, "jobs api", "cluster", "workers") == ["fail", "fail", "warn"]


def test_the_object_store_is_that_of_the_head_or_of_a_local_ray(monkeypatch, free_port):
    nodes = (ClusterNode(0, 0, 7e9, is_head=True), ClusterNode(96, 8, 1e9, is_head=False))
    with monkeypatch.context() as patch:
        patch.setattr(check_table.clusters, "read_cluster", lambda *_: ClusterState(DASHBOARD, "2.60.0", nodes))
        assert subject("auto").store_bytes == 7e9
    own = subject().store_bytes
    assert own > 0
    assert subject(f"127.0.0.1:{free_port()}").store_bytes == own


def test_a_hanging_cluster_is_contacted_once(monkeypatch, tmp_path):
    never, asked = threading.Event(), []
    monkeypatch.setattr(check_table.clusters, "read_cluster", lambda *values: asked.append(values) or never.wait())
    hanging = [
        each
        for each in applicable_checks(subject("10.0.0.1:6379", recipe(tmp_path)))
        if each.name in ("ray", "cluster")
    ]
    checks = list(run_checks(hanging, timeout_s=0.05))
    assert ["no answer" in checks[0].message, "does not answer" in checks[1].message] == [True, True]
    assert len(asked) == 1
    never.set()
    while has_hanging_check():
        time.sleep(0.01)


def test_a_training_run_keeps_its_model_and_its_checkpoints(tmp_path, teacher_dir):
    weights = Path(teacher_dir, "model.safetensors").stat().st_size
    config = recipe(tmp_path, teacher_dir=teacher_dir, intervals={"keep_checkpoints": 2})
    assert run_bytes(config) == weights * (1 + 3 * 3)
    assert run_bytes(recipe(tmp_path, teacher_dir="hub:a/b")) is None
    assert (
        run_bytes(EncodeCorpusConfig.model_validate({"run_dir": "r", "corpus_dir": "c", "tokenizer_dir": "t"})) is None
    )
