"""The shell blocks of README.md and docs/operations.md work as printed, or are listed as untestable here."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.recipe_inputs import write_inputs

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/operations.md")
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LIMIT_S = 240

# Prefixes of commands that cannot run here as printed, with the test that covers them or the reason.
CARD, HUB = "jobs/recipes/{0}/card.yaml", "tests/jobs/test_dry_runs.py: the whole Wikipedia and a model of the hub"
ELSEWHERE = {
    "make quickstart": "tests/pipeline/test_quickstart.py",
    "make mine": "tests/pipeline/test_mine.py",
    "make test": "runs this test",
    "make serve": "tests/security/test_local_service.py",
    "source .venv/bin/activate": "the environment of this test",
    "curl -s -H 'content-type: application/json' -d": "tests/serve/contract/test_forms.py",
    "ray up": "tests/pipeline/test_ray_up.py",
    "ray dashboard": "tests/pipeline/test_ray_up.py",
    "ray monitor": "an account of AWS",
    "aws": "an account of AWS",
    "ray exec": "tests/pipeline/test_ray_up.py",
    "ray down": "tests/pipeline/test_ray_up.py",
    "ray job submit": "tests/pipeline/test_submit.py",
    "python -m jobs.submit": "tests/pipeline/test_submit.py",
    "python -m jobs.doctor --address": "tests/pipeline/test_submit.py",
    "serve deploy": "tests/faults/test_serving.py, by the same call of Ray",
    "serve status": "tests/faults/test_serving.py, by the same call of Ray",
    **dict.fromkeys(
        ("digest=$(docker", "docker build", "docker push"), "tests/layout/test_dockerfile.py: an engine and a registry"
    ),
    **dict.fromkeys(
        ("kubectl", "cluster=$(kubectl", "export RAY_AUTH_TOKEN=$(kubectl", "ray job logs $(kubectl"),
        "tests/layout/test_kubernetes.py: a cluster of Kubernetes",
    ),
    **{
        f"python -m jobs.{job} --recipe {CARD.format(job)}": HUB
        for job in ("build_corpus", "encode_corpus", "distill", "evaluate_fill_mask")
    },
}
# Overrides that shorten training from minutes to seconds.
OVERRIDES = {"python -m jobs.distill": "max_steps=2 batch_size=4 intervals.heldout_examples=8 scaling.num_workers=1"}
LONG = ("python -m jobs.distill", "python -m jobs.doctor", "python -m jobs.plan")
# The doctor fails if the machine has too little shared memory or too few open files, which is correct.
EXIT_CODES = {"python -m jobs.doctor": {0, 1}}


def blocks(page: str) -> Iterator[list[str]]:
    """Yield the commands of each block of a page, one per line, without comments."""
    for _, body in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        lines = re.sub(r"\\\n\s*", "", body).splitlines()
        yield [line for line in (re.sub(r"\s+# .*", "", line).strip() for line in lines) if line]


COMMANDS = [(page, number, block) for page in PAGES for number, block in enumerate(blocks(page))]


def runnable(block: list[str]) -> list[str]:
    """Return the commands of a block that can run here."""
    return [command for command in block if not command.startswith(tuple(ELSEWHERE))]


def marked_block(page: str, number: int, block: list[str]) -> Any:
    marker = pytest.mark.docs if any(command.startswith(LONG) for command in runnable(block)) else pytest.mark.slow
    return pytest.param(block, id=f"{page}-{number}", marks=marker)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project_files: list[Path]) -> Path:
    """Checkout with tiny files in place of the quickstart's results."""
    copy = tmp_path_factory.mktemp("blocks") / "checkout"
    for file in project_files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    (copy / "runs").mkdir()
    write_inputs(copy / "runs" / "quickstart")
    return copy


def test_every_page_has_commands_that_run_here_and_every_listed_command_is_on_a_page() -> None:
    assert {page for page, _, block in COMMANDS if runnable(block)} == set(PAGES)
    commands = [command for _, _, block in COMMANDS for command in block]
    assert not [start for start in ELSEWHERE if not any(command.startswith(start) for command in commands)]


def test_the_listed_tests_exist() -> None:
    files = [reason.partition(",")[0].partition(":")[0] for reason in ELSEWHERE.values() if reason.startswith("tests/")]
    assert not [file for file in files if not (ROOT / file).is_file()]


@pytest.mark.parametrize(
    "block", [marked_block(page, number, block) for page, number, block in COMMANDS if runnable(block)]
)
def test_a_block_runs_as_printed(block: list[str], folder: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"}}
    environment = {**kept, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": "platform", "NO_COLOR": "1"}
    for command in runnable(block):
        is_run = "--dry-run" not in command
        overrides = [values for start, values in OVERRIDES.items() if command.startswith(start) and is_run]
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", " ".join([command, *overrides])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        codes = next((codes for start, codes in EXIT_CODES.items() if command.startswith(start)), {0})
        assert result.returncode in codes, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        assert "Traceback" not in result.stderr
