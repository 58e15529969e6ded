from dataclasses import dataclass

import pytest

from distilray.operations.doctor.machine.environment import (
    check_hub,
    check_orphans,
    check_path,
    check_proxies,
    check_threads,
    offline_by,
)

SECRET = "pa55w0rd"


@dataclass
class Left:
    pid: int
    folder: str | None = None


@pytest.mark.parametrize(("value", "status"), [("platform", "ok"), ("other:{here}/platform", "ok"), ("other", "warn")])
def test_the_sources_are_on_the_path(tmp_path, value, status):
    given = {"PYTHONPATH": value.format(here=tmp_path)}
    assert check_path(given, tmp_path, tmp_path / "platform").status == status
    assert check_path({}, tmp_path, tmp_path / "platform").fix == "export PYTHONPATH=platform"


def test_an_installed_package_needs_no_path(tmp_path):
    assert check_path({}, tmp_path, tmp_path / "site-packages").status == "ok"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False), (None, False)])
def test_whether_the_hub_may_be_asked_is_told(value, offline):
    found = check_hub({} if value is None else {"HF_HUB_OFFLINE": value})
    assert ("HF_HUB_OFFLINE" in found.found) is offline


@pytest.mark.parametrize(
    ("hub", "transformers", "closed_by"),
    [("1", "0", "HF_HUB_OFFLINE"), ("0", "1", None), ("", "1", "TRANSFORMERS_OFFLINE"), ("no", "", None)],
)
def test_of_both_variables_the_first_that_is_set_decides_as_in_the_client(hub, transformers, closed_by):
    given = {"HF_HUB_OFFLINE": hub, "TRANSFORMERS_OFFLINE": transformers}
    assert offline_by(given) == closed_by


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "ok"),
        ({"http_proxy": f"http://me:{SECRET}@proxy:3128"}, "warn"),
        ({"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128", "NO_PROXY": "localhost"}, "warn"),
        ({"HTTPS_PROXY": f"http://me:{SECRET}@proxy:3128", "NO_PROXY": "localhost, 127.0.0.1"}, "ok"),
        ({"all_proxy": f"http://me:{SECRET}@proxy:3128", "no_proxy": "*"}, "ok"),
    ],
)
def test_this_machine_is_not_asked_through_a_proxy(environment, status):
    found = check_proxies(environment)
    assert found.status == status
    assert SECRET not in found.found + found.fix


def test_one_number_of_threads_for_all_workers_is_a_warning():
    assert check_threads({}, 8).status == "ok"
    assert check_threads({"OMP_NUM_THREADS": "1"}, 8).fix == "unset OMP_NUM_THREADS"


def test_the_threads_that_ray_gives_to_a_driver_are_no_warning():
    assert check_threads({"OMP_NUM_THREADS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, 8).status == "ok"


def test_proxies_without_their_server_are_named_by_process():
    assert check_orphans([]).status == "ok"
    found = check_orphans([Left(17), Left(23, "folder")])
    assert (found.status, found.fix) == ("warn", "kill 17 23")
    assert "17, 23 of this project" in found.found
