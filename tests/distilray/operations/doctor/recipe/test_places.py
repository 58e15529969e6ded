from pathlib import Path

import pytest

from distilray.config.distillation import DistillConfig
from distilray.operations.doctor.recipe.places import check_places, mounted_as, places_of

MOUNTS = """/dev/nvme0n1p1 / ext4 rw 0 0
proc /proc proc rw 0 0
10.0.0.2:/export /mnt nfs4 rw 0 0
/dev/nvme1n1 /mnt/local xfs rw 0 0
s3fs /mnt/bucket fuse.s3fs rw 0 0
"""


def recipe(**folders: str) -> DistillConfig:
    given = {"run_dir": "/mnt/run", "shards_dir": "s3://bucket/shards", "teacher_dir": "hub:a/b"}
    return DistillConfig.model_validate({**given, **folders})


def test_folders_are_those_of_the_recipe_and_no_models_of_the_hub():
    assert places_of(recipe()) == {"run_dir": "/mnt/run", "shards_dir": "s3://bucket/shards"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/mnt/run", "nfs4"), ("/mnt/local/run", "xfs"), ("/mnt/localhost", "nfs4"), ("/data", "ext4")],
)
def test_a_path_lies_on_the_deepest_mount_above_it(path, kind):
    assert mounted_as(Path(path), MOUNTS) == kind


def test_a_relative_folder_fails_on_a_cluster():
    found = check_places(recipe(run_dir="runs/x"), MOUNTS)
    assert (found.status, "run_dir=/absolute" in found.fix) == ("fail", True)
    assert check_places(recipe(run_dir="runs/x"), None).status == "fail"


def test_a_disk_of_one_machine_is_a_warning():
    found = check_places(recipe(run_dir="/mnt/local/run"), MOUNTS)
    assert (found.status, "is on xfs" in found.found) == ("warn", True)


@pytest.mark.parametrize("run_dir", ["/mnt/run", "/mnt/bucket/run", "s3://bucket/run"])
def test_shared_file_systems_and_object_stores_are_fine(run_dir):
    assert check_places(recipe(run_dir=run_dir), MOUNTS).status == "ok"


def test_from_outside_of_the_cluster_nothing_is_said_of_mounts():
    assert check_places(recipe(run_dir="/mnt/local/run"), None).status == "ok"
