"""The shell blocks of README.md and docs/operations.md run as printed, or stand in a list of what cannot run here."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.recipe_inputs import write_inputs

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/operations.md")
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LIMIT_S = 240

# How commands begin that no test can run as they are printed, and what runs instead, or why nothing does.
CARD, HUB = "jobs/recipes/{0}/card.yaml", "tests/jobs/test_dry_runs.py: the whole Wikipedia and a model of the hub"
ELSEWHERE = {
    "make quickstart": "tests/pipeline/test_quickstart.py",
    "make test": "what runs this",
    "make serve": "tests/security/test_local_service.py",
    "source .venv/bin/activate": "the environment of this test",
    "curl -s -H 'content-type: application/json' -d": "tests/serve/contract/test_azure_forms.py",
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
# Training of a few seconds, where the recipe has minutes.
SHORTER = {"python -m jobs.distill": "max_steps=2 batch_size=4 intervals.heldout_examples=8 scaling.num_workers=1"}
# A machine may have less shared memory or files than the doctor wants; then it says so, and does its duty.
FINDINGS = {"python -m jobs.doctor": {0, 1}}


def blocks(page: str) -> Iterator[list[str]]:
    """The commands of each block of a page, without comments, each on a line of its own."""
    for _, body in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        lines = re.sub(r"\\\n\s*", "", body).splitlines()
        yield [line for line in (re.sub(r"\s+# .*", "", line).strip() for line in lines) if line]


COMMANDS = [(page, number, block) for page in PAGES for number, block in enumerate(blocks(page))]


def is_elsewhere(command: str) -> bool:
    return command.startswith(tuple(ELSEWHERE))


def here(block: list[str]) -> list[str]:
    """What of a block runs here."""
    return [command for command in block if not is_elsewhere(command)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project_files: list[Path]) -> Path:
    """A checkout, with tiny files where the quickstart would have left its own."""
    copy = tmp_path_factory.mktemp("blocks") / "checkout"
    for file in project_files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        (copy / file).write_bytes((ROOT / file).read_bytes())
    (copy / "runs").mkdir()
    write_inputs(copy / "runs" / "quickstart")
    return copy


def test_pages_have_blocks_and_some_run_here() -> None:
    assert {page for page, _, block in COMMANDS if here(block)} == set(PAGES)


def test_no_command_is_listed_that_no_page_has() -> None:
    commands = [command for _, _, block in COMMANDS for command in block]
    assert not [start for start in ELSEWHERE if not any(command.startswith(start) for command in commands)]


def test_the_tests_that_run_instead_exist() -> None:
    files = [reason.partition(",")[0].partition(":")[0] for reason in ELSEWHERE.values() if reason.startswith("tests/")]
    assert not [file for file in files if not (ROOT / file).is_file()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{page}-{number}") for page, number, block in COMMANDS if here(block)]
)
def test_a_block_runs_as_it_is_printed(block: list[str], folder: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in {"RAY_AUTH_TOKEN", "RAY_AUTH_MODE"}}
    environment = {**kept, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": "platform", "NO_COLOR": "1"}
    for command in here(block):
        shorter = [more for start, more in SHORTER.items() if command.startswith(start) and "--dry-run" not in command]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", " ".join([command, *shorter])],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        codes = next((codes for start, codes in FINDINGS.items() if command.startswith(start)), {0})
        assert done.returncode in codes, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
