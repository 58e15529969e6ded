from pathlib import Path

import pytest

from distilray.config.distillation import CacheTeacherConfig, DistillConfig
from distilray.config.glue import EvaluateGlueConfig, SearchGlueConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.config.recipe import load_recipe
from distilray.operations.doctor.cluster import Cluster, Node, check_workers
from distilray.operations.workers import WorkerNeed, worker_need

CARD = WorkerNeed(8, 4, 1, 8, "scaling.num_workers")
GPU8 = Node(96, 8, 1e9, is_head=False)
GPU4 = Node(96, 4, 1e9, is_head=False)
CPU = Node(32, 0, 1e9, is_head=False)


def of(*nodes: Node, grows: bool = False) -> Cluster:
    head = Node(0, 0, 1e9, is_head=True, group="head" if grows else "")
    return Cluster("http://h:8265", "2.60.0", (head, *nodes))


@pytest.mark.parametrize(
    ("recipe", "config_class", "need"),
    [
        ("distill/card", DistillConfig, CARD),
        ("distill/quickstart", DistillConfig, WorkerNeed(2, 1, 0, 2, "scaling.num_workers")),
        ("cache_teacher/card", CacheTeacherConfig, WorkerNeed(1, 1, 1.0, 1, "scaling.gpus_per_task")),
        ("evaluate_glue/card", EvaluateGlueConfig, WorkerNeed(1, 4, 1, 1, "scaling.num_workers")),
        ("search_glue/grid", SearchGlueConfig, WorkerNeed(1, 1.0, 0.25, 1, "trial.gpus")),
        ("encode_corpus/card", EncodeCorpusConfig, None),
    ],
)
def test_the_need_is_what_the_recipe_says(root: Path, recipe, config_class, need):
    assert worker_need(load_recipe(str(root / f"jobs/recipes/{recipe}.yaml"), [], config_class)) == need


def test_a_run_may_begin_with_fewer_workers(root: Path):
    overrides = ["scaling.min_workers=2"]
    need = worker_need(load_recipe(str(root / "jobs/recipes/distill/card.yaml"), overrides, DistillConfig))
    assert need is not None
    assert (need.workers, need.min_workers) == (8, 2)


def check(need, cluster):
    return check_workers(need, cluster.nodes, cluster)


def test_workers_that_fit_are_fine():
    assert check(CARD, of(GPU8)).status == "ok"
    assert check(CARD, of(GPU4, GPU4)).status == "ok"
    assert check(None, of(CPU)).status == "ok"


def test_fewer_gpus_than_workers_fail_where_nothing_adds_machines():
    found = check(CARD, of(GPU4))
    assert found.status == "fail"
    assert "8 x 4 CPU, 1 GPU asked for, http://h:8265 has room for 4" in found.found
    assert "scaling.num_workers=4" in found.fix


def test_fewer_gpus_than_workers_are_a_warning_where_an_autoscaler_adds_machines():
    assert check(CARD, of(GPU4, grows=True)).status == "warn"
    assert check(CARD, of(grows=True)).status == "warn"


def test_fewer_workers_than_asked_for_are_a_warning_where_the_recipe_allows_it():
    assert check(WorkerNeed(8, 4, 1, 2, "scaling.num_workers"), of(GPU4)).status == "warn"


def test_gpus_without_cpus_beside_them_hold_no_worker():
    found = check(CARD, of(Node(4, 8, 1e9, is_head=False)))
    assert (found.status, "room for 1" in found.found) == ("warn", True)


def test_fewer_cpus_than_workers_on_a_cluster_are_a_warning_since_the_job_waits():
    assert check(WorkerNeed(40, 1, 0, 40, "scaling.num_workers"), of(CPU)).status == "warn"


def test_a_local_ray_refuses_what_does_not_fit():
    assert (
        check_workers(WorkerNeed(3, 1, 0, 3, "scaling.num_workers"), (Node(2, 0, 0, is_head=True),), None).status
        == "fail"
    )
    found = check_workers(CARD, (Node(64, 0, 0, is_head=True),), None)
    assert (found.status, "scaling.use_gpu=false" in found.fix) == ("fail", True)
    assert check_workers(WorkerNeed(2, 1, 0, 2, "x"), (Node(2, 0, 0, is_head=True),), None).status == "ok"
