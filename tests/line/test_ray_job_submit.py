"""A job reaches a cluster that does not know the project: its files and a token are all that is sent."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.line.ray_head import Head, running_head

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head(free_port: Callable[[], int]) -> Iterator[Head]:
    with running_head(free_port) as head:
        yield head


def test_a_job_runs_on_a_cluster_that_does_not_know_the_project(head: Head, checkout: Path, tmp_path: Path) -> None:
    done = head.submit(checkout, f"run_dir={tmp_path}/corpus")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["content"]["job"] == "build_corpus"
    assert list((tmp_path / "corpus" / "documents").glob("*.parquet"))


def test_bad_input_fails_the_job_with_its_one_line(head: Head, checkout: Path, tmp_path: Path) -> None:
    done = head.submit(checkout, f"run_dir={tmp_path}/corpus", "filters.min_wrods=3")
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "filters.min_wrods: unknown key; did you mean 'min_words'?" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)], ids=["no token", "a wrong token"])
def test_the_jobs_api_is_closed_without_the_token(head: Head, token: str | None, status: int) -> None:
    assert head.get("/api/jobs/", token) == status
