import shlex
from pathlib import Path

import pytest

from distilray.config.base import SeededConfig
from distilray.errors import InputError
from distilray.operations.submission.cluster import DriverResources
from distilray.operations.submission.request import build_request, runtime_env


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "runtime_env.yaml").write_text("env_vars: {PYTHONPATH: platform}\nexcludes: [/runs]\n")
    (folder / "recipe.yaml").write_text("run_dir: /mnt/run\n")
    return folder


def request_of(root, *overrides, recipe="recipe.yaml"):
    return build_request(
        "distill", SeededConfig, str(root / recipe), overrides, root=root, driver=DriverResources(num_gpus=1)
    )


def test_the_entrypoint_is_the_command_of_the_job_from_the_root_of_the_upload(root):
    sent = request_of(root, "run_dir=/mnt/with space", "seed=3").submission
    command = ["python", "-m", "jobs.distill", "--recipe", "recipe.yaml", "run_dir=/mnt/with space", "seed=3"]
    assert shlex.split(sent.entrypoint) == command
    assert sent.metadata["run_dir"] == "/mnt/with space"
    assert sent.driver.needs() == {"GPU": 1.0}


def test_the_same_command_from_another_folder_is_the_same(root, monkeypatch):
    monkeypatch.chdir(root / "jobs")
    from_inside = build_request("distill", SeededConfig, "../recipe.yaml", [], root=root, driver=DriverResources())
    assert from_inside.id == request_of(root).id
    assert from_inside.recipe == "recipe.yaml"


@pytest.mark.parametrize(("run_dir", "offline"), [("/mnt/run", "1"), ("hub:a/b", "0")])
def test_the_hub_is_open_only_to_a_run_that_names_it(root, run_dir, offline):
    sent = request_of(root, f"run_dir={run_dir}").submission
    assert sent.env_vars == {"PYTHONPATH": "platform", "HF_HUB_OFFLINE": offline}


def test_a_recipe_outside_of_the_checkout_is_refused(root, tmp_path):
    (tmp_path / "mine.yaml").write_text("run_dir: /mnt/run\n")
    with pytest.raises(InputError, match="outside of the checkout"):
        request_of(root, recipe="../mine.yaml")


@pytest.mark.parametrize(
    ("override", "told"), [("run_dri=/x", "did you mean 'run_dir'"), ("run_dir=runs/x", "run_dir=runs/x: relative")]
)
def test_what_the_job_would_refuse_is_refused_here(root, override, told):
    with pytest.raises(InputError, match=told):
        request_of(root, override)


@pytest.mark.parametrize("key", ["pip", "uv", "conda", "py_modules", "container", "working_dir"])
def test_nothing_but_variables_and_files_is_sent(root, key):
    (root / "jobs" / "runtime_env.yaml").write_text(f"env_vars: {{}}\n{key}: [requests]\n")
    with pytest.raises(InputError, match=f"'{key}' is not sent; packages belong into the image"):
        runtime_env(root)


def test_a_number_among_the_variables_is_one_line(root):
    (root / "jobs" / "runtime_env.yaml").write_text("env_vars: {A: 1}\n")
    with pytest.raises(InputError, match="put a number into quotes"):
        runtime_env(root)
