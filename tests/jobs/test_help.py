"""Every command explains itself."""

import importlib

import pytest

from jobs import job_names


@pytest.mark.parametrize("name", job_names())
def test_help_shows_the_command_and_ends_well(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"jobs.{name}").main(["--help"])
    assert ended.value.code == 0
    assert f"usage: python -m jobs.{name}" in capsys.readouterr().out
