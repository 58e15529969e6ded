from pathlib import Path

import pytest

from distilray.config.base import KEEP_TILDE
from distilray.config.corpus import BuildCorpusConfig
from distilray.config.distillation import DistillConfig
from distilray.config.evaluation import EvaluateBiasConfig
from distilray.config.report import ReportConfig
from distilray.errors import InputError
from distilray.operations.locations import (
    check_shared_locations,
    filesystem_type,
    shared_locations,
    unshared_file_systems,
)

MOUNTS = """/dev/nvme0n1p1 / ext4 rw 0 0
proc /proc proc rw 0 0
10.0.0.2:/export /mnt nfs4 rw 0 0
/dev/nvme1n1 /mnt/local xfs rw 0 0
s3fs /mnt/bucket fuse.s3fs rw 0 0
"""


def distill(**values):
    return DistillConfig(
        **{"run_dir": "/mnt/run", "shards_dir": "s3://b/shards", "teacher_dir": "sample:encoder"} | values
    )


def test_locations_are_collected_from_lists_sections_and_mappings():
    corpus = BuildCorpusConfig(
        run_dir="/r", sources=[{"path": "/a"}, {"kind": "books", "path": "/b"}], decontamination={"paths": ["/c", "/d"]}
    )
    assert list(shared_locations(corpus).values()) == ["/r", "/a", "/b", "/c", "/d"]
    assert shared_locations(corpus)["sources.1.path"] == "/b"
    bias = EvaluateBiasConfig(run_dir="/r", models={"teacher": "/t", "student": "/s"})
    assert shared_locations(bias) == {"run_dir": "/r", "models.teacher": "/t", "models.student": "/s"}


@pytest.mark.parametrize("value", ["/mnt/x", "s3://bucket/x", "file:///mnt/x", "hub:a/b@main", "sample:encoder"])
def test_a_location_that_all_machines_reach_is_accepted(value):
    check_shared_locations(distill(teacher_dir=value))


@pytest.mark.parametrize("value", ["runs/x", "./runs/x", "../x", "x"])
def test_a_relative_path_is_refused_with_an_absolute_example(value):
    with pytest.raises(InputError, match=rf"^run_dir={value}: relative, .* for instance /mnt/shared/(runs/)?x$"):
        check_shared_locations(distill(run_dir=value))


@pytest.mark.parametrize("value", ["~/x", "~root/x"])
def test_the_home_folder_of_one_machine_is_refused(value):
    values = {"run_dir": value, "shards_dir": "s3://b/shards", "teacher_dir": "sample:encoder"}
    with pytest.raises(InputError, match=rf"^run_dir={value}: the home folder of one machine"):
        check_shared_locations(DistillConfig.model_validate(values, context={KEEP_TILDE: True}))


def test_a_cache_is_a_folder_of_each_machine():
    check_shared_locations(distill(cache={"directory": "scratch"}))


def test_all_relative_paths_are_named_at_once():
    with pytest.raises(InputError, match=r"^run_dir=a: .*\(also run_paths.1, optional_paths.0\)$"):
        check_shared_locations(ReportConfig(run_dir="a", run_paths=["/x", "b"], optional_paths=["c"]))


def test_a_scheme_that_no_machine_reads_is_refused():
    with pytest.raises(InputError, match=r"^run_dir=hdfs://x: scheme 'hdfs' is not one of file, s3"):
        check_shared_locations(distill(run_dir="hdfs://x"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/mnt/run", "nfs4"), ("/mnt/local/run", "xfs"), ("/mnt/localhost", "nfs4"), ("/data", "ext4")],
)
def test_a_path_is_on_the_deepest_mount_above_it(path, kind):
    assert filesystem_type(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("run_dir", ["/mnt/local/run", "file:///mnt/local/run"])
def test_a_disk_of_one_machine_is_reported(run_dir):
    assert unshared_file_systems(distill(run_dir=run_dir), MOUNTS) == {"run_dir": "xfs"}


@pytest.mark.parametrize("run_dir", ["/mnt/run", "/mnt/bucket/run", "s3://bucket/run"])
def test_shared_file_systems_and_object_stores_are_fine(run_dir):
    assert not unshared_file_systems(distill(run_dir=run_dir), MOUNTS)
