from pathlib import Path

import pytest

from distilray.operations.doctor.access.tokens import check_file, check_mode
from distilray.operations.ray_token import Token

TOKEN = Token("5ec2e7" * 10, "RAY_AUTH_TOKEN")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of the user, as it should be."""
    file = tmp_path / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("f11e" * 16 + "\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("mode", "token", "cluster", "status"),
    [
        (None, None, False, "ok"),
        (None, TOKEN, True, "warn"),
        ("token", TOKEN, True, "ok"),
        ("token", None, True, "fail"),
        ("token", None, False, "ok"),
        ("disabled", TOKEN, True, "fail"),
        ("disabled", None, False, "warn"),
        ("tokens", TOKEN, True, "fail"),
    ],
)
def test_clients_of_a_cluster_must_be_told_to_send_a_token(mode, token, cluster, status):
    environment = {} if mode is None else {"RAY_AUTH_MODE": mode}
    found = check_mode(environment, token, cluster=cluster)
    assert found.status == status
    assert bool(found.fix) == (status != "ok")
    assert TOKEN.value not in found.found + found.fix


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_fails(file, tmp_path, mode):
    file.chmod(mode)
    found = check_file({}, tmp_path)
    assert (found.status, found.fix) == ("fail", f"chmod 600 {file}")
    assert f"{mode:04o}" in found.found


def test_a_file_of_mode_600_and_no_file_are_fine(file, tmp_path):
    assert check_file({}, tmp_path).status == "ok"
    assert check_file({}, tmp_path / "nobody").status == "ok"


def test_a_path_that_names_no_file_fails_since_ray_ends_there(tmp_path):
    found = check_file({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
    assert (found.status, "unset RAY_AUTH_TOKEN_PATH" in found.fix) == ("fail", True)


def test_two_different_tokens_are_a_warning_that_shows_neither(file, tmp_path):
    found = check_file({"RAY_AUTH_TOKEN": TOKEN.value}, tmp_path)
    assert (found.status, found.fix) == ("warn", "unset RAY_AUTH_TOKEN")
    assert TOKEN.value not in found.found
    assert file.read_text().strip() not in found.found
    assert check_file({"RAY_AUTH_TOKEN": file.read_text()}, tmp_path).status == "ok"
