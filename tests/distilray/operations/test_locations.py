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
    required = {"run_dir": "/mnt/run", "shards_dir": "s3://b/shards", "teacher_dir": "sample:encoder"}
    return DistillConfig.model_validate(required | values, context={KEEP_TILDE: True})


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
    check_shared_locations(distill(teacher_dir=value, cache={"directory": "scratch"}))  # each machine has its cache


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (distill(run_dir="runs/x"), r"^run_dir=runs/x: relative, .* for instance /mnt/shared/runs/x$"),
        *[
            (distill(run_dir=value), rf"^run_dir={value}: relative, .* for instance /mnt/shared/(runs/)?x$")
            for value in ("./runs/x", "../x", "x")
        ],
        *[
            (distill(run_dir=value), rf"^run_dir={value}: the home folder of one machine")
            for value in ("~/x", "~root/x")
        ],
        (distill(run_dir="hdfs://x"), r"^run_dir=hdfs://x: scheme 'hdfs' is not one of file, s3"),
        (
            ReportConfig(run_dir="a", run_paths=["/x", "b"], optional_paths=["c"]),
            r"^run_dir=a: .*\(also run_paths.1, optional_paths.0\)$",
        ),
    ],
)
def test_a_location_of_one_machine_is_refused_with_all_its_keys(config, message):
    with pytest.raises(InputError, match=message):
        check_shared_locations(config)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/mnt/run", "nfs4"), ("/mnt/local/run", "xfs"), ("/mnt/localhost", "nfs4"), ("/data", "ext4")],
)
def test_a_path_is_on_the_deepest_mount_above_it(path, kind):
    assert filesystem_type(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("run_dir", "unshared"),
    [
        *[(uri, {"run_dir": "xfs"}) for uri in ("/mnt/local/run", "file:///mnt/local/run")],
        *[(uri, {}) for uri in ("/mnt/run", "/mnt/bucket/run", "s3://bucket/run")],
    ],
)
def test_only_a_disk_of_one_machine_is_reported(run_dir, unshared):
    assert unshared_file_systems(distill(run_dir=run_dir), MOUNTS) == unshared
