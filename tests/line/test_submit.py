"""`jobs.submit` against a real head: given twice, through a network that cuts the log, and with a job that fails."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.line.cutting_proxy import cutting_proxy
from tests.line.ray_head import JOB_S, RECIPE, Head, running_head

pytestmark = pytest.mark.slow

CORPUS = ["build_corpus", "--recipe", RECIPE]


@pytest.fixture(scope="module")
def head(free_port: Callable[[], int]) -> Iterator[Head]:
    with running_head(free_port) as head:
        yield head


def test_given_twice_it_is_one_job_whose_lines_a_bad_network_neither_loses_nor_repeats(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    command = [*CORPUS, f"run_dir={tmp_path}/corpus"]
    with cutting_proxy(head.address, life_s=1.0) as proxy:
        both = [head.wrapper(checkout, *command, address=proxy.address), head.wrapper(checkout, *command)]
        (cut, cut_told), (direct, direct_told) = [process.communicate(timeout=JOB_S) for process in both]
    assert [process.returncode for process in both] == [0, 0], cut_told + direct_told
    assert sorted("attaching to it" in told for told in (cut_told, direct_told)) == [False, True]
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text())["content"]["job"] == "build_corpus"
    assert "connecting again" in cut_told
    assert (proxy.cuts >= 1, proxy.streams >= 2) == (True, True)  # the log came from its beginning again
    assert cut == direct
    assert len(re.findall(rf"^build_corpus: .* -> {tmp_path}/corpus$", cut, re.MULTILINE)) == 1

    again = head.wrapper(checkout, *command)
    _, told = again.communicate(timeout=JOB_S)
    assert (again.returncode, "has SUCCEEDED already" in told) == (0, True)


def test_a_job_that_finds_bad_input_on_the_cluster_gives_its_own_exit_code(
    head: Head, checkout: Path, tmp_path: Path
) -> None:
    command = [*CORPUS, f"run_dir={tmp_path}/corpus", f"sources=[{{path: {tmp_path}/no-such-dump.xml}}]"]
    process = head.wrapper(checkout, *command)
    log, told = process.communicate(timeout=JOB_S)
    assert process.returncode == 2, log + told
    assert "no-such-dump.xml" in log
    assert "Traceback" not in log + told
    first = re.search(r"submit: (build_corpus-\w+) FAILED: .*exit code 2", told)
    assert first

    detached = head.wrapper(checkout, "--detach", *command)
    name, told = detached.communicate(timeout=JOB_S)
    assert (detached.returncode, name) == (0, f"{first[1]}-2\n")
    assert f"attempt 2 (the last one, {first[1]}, is FAILED)" in told


def test_a_closed_cluster_is_one_line_with_the_fix(head: Head, checkout: Path, tmp_path: Path) -> None:
    tokens = {"401": "", "403": "0" * 64}
    command = [*CORPUS, f"run_dir={tmp_path}/corpus"]
    processes = {status: head.wrapper(checkout, *command, token=token) for status, token in tokens.items()}
    for status, process in processes.items():
        log, told = process.communicate(timeout=JOB_S)
        assert (process.returncode, log) == (2, "")
        (line,) = told.splitlines()
        assert f": {status}, " in line
        assert ".ray/auth_token" in line
        assert not tokens[status] or tokens[status] not in told
