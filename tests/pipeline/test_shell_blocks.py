"""The shell blocks of README.md and docs/ work as printed, or are listed as untestable here."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distilray.corpus.test_survey import DOCUMENTS
from tests.jobs.recipe_inputs import write_inputs

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
LIMIT_S = 240

# Prefixes of commands that cannot run here as printed, with the test that covers them or the reason.
RECIPE = "python -m jobs.{0} --recipe jobs/recipes/{0}/{1}.yaml"
ELSEWHERE = {
    "make quickstart": "tests/pipeline/test_quickstart.py",
    "make mine": "tests/pipeline/test_mine.py",
    "python -m jobs.run_pipeline jobs/pipelines/mine-without-adaptation.yaml": (
        "tests/distilray/operations/own_text/test_choose_settings.py"
    ),
    "make serve": "tests/security/test_local_service.py",
    "make glue-demo": "tests/jobs/test_run_pipeline.py",
    "make reproduction": "tests/jobs/test_run_pipeline.py",
    "make setup": "the environment of this test",
    **dict.fromkeys(("python -m jobs.x", "python -m jobs.run_pipeline FILE"), "the form of a command"),
    "source .venv/bin/activate": "the environment of this test",
    "curl -s": "tests/serve/contract/test_forms.py",
    "python -m jobs.serve_fill_mask": "tests/serve/test_running_service.py",
    "DISTILRAY_API_KEYS": "tests/serve/test_auth.py",
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
    "bash benchmarks/gpu.sh": "tests/benchmarks/gpu/test_script.py",
    "WHEELS=wheels bash benchmarks/gpu.sh": "tests/benchmarks/gpu/test_script.py",
    "python -m jobs.run_pipeline jobs/pipelines/quickstart.yaml folder=": "tests/pipeline/test_quickstart.py",
    **dict.fromkeys(
        ("digest=$(docker", "docker build", "docker push"), "tests/layout/test_dockerfile.py: an engine and a registry"
    ),
    **dict.fromkeys(
        ("kubectl", "cluster=$(kubectl", "export RAY_AUTH_TOKEN=$(kubectl", "ray job logs $(kubectl"),
        "tests/layout/test_kubernetes.py: a cluster of Kubernetes",
    ),
    **dict.fromkeys(
        (
            RECIPE.format(job, "card")
            for job in ("build_corpus", "encode_corpus", "cache_teacher", "distill", "evaluate_fill_mask")
        ),
        "tests/jobs/test_dry_runs.py: the whole Wikipedia and a model of the hub",
    ),
    **dict.fromkeys(
        (
            RECIPE.format("evaluate_glue", "quickstart"),
            RECIPE.format("evaluate_glue", "quickstart-teacher"),
            RECIPE.format("search_glue", "grid"),
            RECIPE.format("measure_efficiency", "quickstart"),
        ),
        "tests/jobs/test_dry_runs.py: the files of GLUE",
    ),
    **dict.fromkeys(
        (
            "python -m jobs.distill --recipe jobs/recipes/reproduction",
            "python -m jobs.evaluate_glue --recipe runs/reproduction",
        ),
        "tests/jobs/test_run_pipeline.py: hours on two cores",
    ),
}
# Whole commands, whose prefixes run here with other values.
WHOLE = {
    **{
        RECIPE.format(job, "quickstart"): "tests/pipeline/test_quickstart.py"
        for job in ("build_corpus", "encode_corpus", "train_teacher", "distill", "evaluate_fill_mask", "write_report")
    },
    **{
        RECIPE.format(job, "quickstart"): "tests/jobs/test_dry_runs.py"
        for job in ("train_tokenizer", "evaluate_bias", "export_model")
    },
}
# Overrides that shorten training from minutes to seconds.
OVERRIDES = {"python -m jobs.distill": "max_steps=2 batch_size=4 intervals.heldout_examples=8 scaling.num_workers=1"}
LONG = tuple(f"python -m jobs.{job}" for job in ("build_corpus", "distill", "doctor", "plan", "run_pipeline"))
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
    return [command for command in block if command not in WHOLE and not command.startswith(tuple(ELSEWHERE))]


def marked_block(page: str, number: int, block: list[str]) -> Any:
    """Return a parameter; `-m docs` runs all blocks, `-m slow` the short ones."""
    is_long = any(command.startswith(LONG) for command in runnable(block))
    return pytest.param(
        block, id=f"{page}-{number}", marks=[pytest.mark.docs, *([] if is_long else [pytest.mark.slow])]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, project_files: list[Path]) -> Path:
    """Checkout with tiny files in place of the quickstart's results and of the user's texts."""
    copy = tmp_path_factory.mktemp("blocks") / "checkout"
    for file in project_files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    (copy / "runs").mkdir()
    write_inputs(copy / "runs" / "quickstart")
    shutil.copytree(copy / "runs" / "quickstart", copy / "runs" / "mine")
    (copy / "my-texts").mkdir()
    for number, text in enumerate(DOCUMENTS):
        (copy / "my-texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    return copy


def test_the_pages_have_commands_that_run_here_and_every_listed_command_is_on_a_page() -> None:
    pages = {page for page, _, block in COMMANDS if runnable(block)}
    assert pages >= {"docs/tutorial.md", "docs/pipeline.md", "docs/operations.md", "docs/troubleshooting.md"}
    commands = [command for _, _, block in COMMANDS for command in block]
    assert not [start for start in ELSEWHERE if not any(command.startswith(start) for command in commands)]
    assert set(WHOLE) <= set(commands)


def test_the_listed_tests_exist() -> None:
    files = [
        reason.partition(",")[0].partition(":")[0]
        for reason in (*ELSEWHERE.values(), *WHOLE.values())
        if reason.startswith("tests/")
    ]
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
