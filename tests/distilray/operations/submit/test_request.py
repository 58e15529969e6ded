import shlex
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from distilray.config.base import SeededConfig
from distilray.errors import InputError
from distilray.operations.submit.job_records import DriverResources
from distilray.operations.submit.request import build_request, job_recipe_reader, job_variables, runtime_env
from distilray.operations.submit.upload import Upload


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "runtime_env.yaml").write_text("env_vars: {PYTHONPATH: platform}\nexcludes: [/runs]\n")
    (folder / "recipe.yaml").write_text("run_dir: /mnt/run\n")
    return folder


def request_of(root, *overrides, recipe="recipe.yaml", variables=None):
    return build_request(
        "distill",
        job_recipe_reader(SeededConfig),
        str(root / recipe),
        overrides,
        root=root,
        driver=DriverResources(num_gpus=1),
        variables=variables or {},
    )


def test_the_entrypoint_is_the_command_of_the_job_from_the_root_of_the_upload(root):
    sent = request_of(root, "run_dir=/mnt/with space", "seed=3").submission
    command = ["python", "-m", "jobs.distill", "--recipe", "recipe.yaml", "run_dir=/mnt/with space", "seed=3"]
    assert shlex.split(sent.entrypoint) == command
    assert sent.metadata["run_dir"] == "/mnt/with space"
    assert sent.driver.needs() == {"GPU": 1.0}


def test_the_same_command_from_another_folder_is_the_same(root, monkeypatch):
    monkeypatch.chdir(root / "jobs")
    from_inside = request_of(Path(".."))
    assert from_inside.id == request_of(root).id
    assert from_inside.files == ["recipe.yaml"]


def test_variables_of_the_command_are_sent_and_override_the_others(root):
    sent = request_of(root, variables={"A": "1", "PYTHONPATH": "other"}).submission
    assert sent.env_vars == {"PYTHONPATH": "other", "A": "1"}


def test_the_resources_of_the_driver_are_listed_with_the_job(root):
    assert request_of(root).submission.metadata["driver_resources"] == "1 GPU"


@pytest.mark.parametrize("override", ["run_dir=s3://key:planted@bucket/run", "run_dri=s3://planted@bucket/run"])
def test_a_login_in_a_uri_is_refused_and_not_repeated(root, override):
    with pytest.raises(InputError, match="the URI contains credentials") as caught:
        request_of(root, override)
    assert "planted" not in str(caught.value)


def test_a_login_in_a_uri_of_the_recipe_is_refused_and_not_repeated(root):
    (root / "recipe.yaml").write_text("run_dir: ftp://me:planted@host/run\n")
    with pytest.raises(InputError, match="run_dir: the URI contains credentials") as caught:
        request_of(root)
    assert "planted" not in str(caught.value)


def test_a_secret_in_the_runtime_environment_is_refused_and_not_repeated(root):
    (root / "jobs" / "runtime_env.yaml").write_text("env_vars: {WANDB_API_KEY: planted}\n")
    with pytest.raises(InputError, match="WANDB_API_KEY: looks like a secret") as caught:
        runtime_env(root)
    assert "planted" not in str(caught.value)


def test_a_recipe_outside_of_the_checkout_is_refused(root, tmp_path):
    (tmp_path / "mine.yaml").write_text("run_dir: /mnt/run\n")
    with pytest.raises(InputError, match="outside the checkout"):
        request_of(root, recipe="../mine.yaml")


@pytest.mark.parametrize(
    ("override", "words"), [("run_dri=/x", "did you mean 'run_dir'"), ("run_dir=runs/x", "run_dir=runs/x: relative")]
)
def test_a_recipe_that_the_job_would_refuse_is_refused(root, override, words):
    with pytest.raises(InputError, match=words):
        request_of(root, override)


@pytest.mark.parametrize("key", ["pip", "uv", "conda", "py_modules", "container", "working_dir"])
def test_nothing_but_variables_and_files_is_sent(root, key):
    (root / "jobs" / "runtime_env.yaml").write_text(f"env_vars: {{}}\n{key}: [requests]\n")
    with pytest.raises(InputError, match=f"'{key}' is not sent; packages belong in the image"):
        runtime_env(root)


def test_a_number_among_the_variables_is_one_line(root):
    (root / "jobs" / "runtime_env.yaml").write_text("env_vars: {A: 1}\n")
    with pytest.raises(InputError, match="put numbers in quotes"):
        runtime_env(root)


def test_the_value_starts_after_the_first_equals_sign():
    assert job_variables(["A=b=c", "EMPTY="], None) == {"A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize(
    "assignment",
    [
        "TOKENIZERS_PARALLELISM=true",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=60",
        "RAY_DATA_DISABLE_PROGRESS_BARS=1",
        "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token",
        "HF_HUB_OFFLINE=0",
        "MLFLOW_TRACKING_URI=https://mlflow.example.com/a@b",
        "WANDB_PROJECT=me@example.com",
    ],
)
def test_variables_that_only_resemble_secrets_are_sent(assignment):
    name, _, value = assignment.partition("=")
    assert job_variables([assignment], None) == {name: value}


@pytest.mark.parametrize(
    ("assignment", "fix"),
    [
        ("HF_TOKEN=planted", "--secrets PATH"),
        ("WANDB_API_KEY=planted", "--secrets PATH"),
        ("wandb_apikey=planted", "--secrets PATH"),
        ("AWS_ACCESS_KEY_ID=planted", "--secrets PATH"),
        ("AWS_SECRET_ACCESS_KEY=planted", "--secrets PATH"),
        ("MLFLOW_TRACKING_PASSWORD=planted", "--secrets PATH"),
        ("DISTILRAY_API_KEYS=planted", "--secrets PATH"),
        ("MLFLOW_TRACKING_URI=https://me:planted@mlflow.example.com", "--secrets PATH"),
        ("MLFLOW_TRACKING_URI=https://planted@mlflow.example.com", "--secrets PATH"),
        ("DISTILRAY_SECRETS_PATH=/planted", "--secrets PATH"),
        ("PYTHONPATH=/planted", "jobs/runtime_env.yaml"),
        ("RAY_ADDRESS=planted", "cluster file"),
        ("planted", "NAME=VALUE"),
        ("=planted", "NAME=VALUE"),
        ("A-B=planted", "NAME=VALUE"),
    ],
)
def test_secrets_and_variables_that_break_a_job_are_refused_without_their_value(assignment, fix):
    with pytest.raises(InputError, match=fix) as caught:
        job_variables(["A=1", assignment], None)
    assert "planted" not in str(caught.value)


def test_only_the_path_of_the_secrets_is_sent():
    assert job_variables([], "/mnt/secrets") == {"DISTILRAY_SECRETS_PATH": "/mnt/secrets"}


def test_a_path_of_this_machine_is_refused_for_secrets():
    with pytest.raises(InputError, match="absolute path of a file or folder on the cluster"):
        job_variables([], ".env")


FILES = [
    "code.py", ".git/config", ".venv/bin/python", "pkg/__pycache__/x.pyc", "runs/model.bin", "notes/a.log",
    "notes/keep.txt", "notes/.gitignore", "data/big.bin", "deep/er/x.tmp", ".rayignore", ".gitignore", "drop/x",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))
    (root / ".gitignore").write_text("runs/\n*.tmp\n")
    (root / ".rayignore").write_text("/data\n")
    (root / "notes" / ".gitignore").write_text("*.log\n")
    return root


def test_the_listing_matches_the_files_that_ray_packs(folder: Path, tmp_path: Path) -> None:
    excludes = [*get_runtime_env_default_excludes(), "/drop"]
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True, excludes=excludes)
    with ZipFile(tmp_path / "package.zip") as package:
        packed = sorted((entry.filename, entry.file_size) for entry in package.infolist() if not entry.is_dir())
    assert sorted(Upload.of(folder, ["/drop"]).files.items()) == packed
    assert {name for name, _ in packed} == {
        "code.py", "notes/keep.txt", "notes/.gitignore", ".rayignore", ".gitignore"
    }  # fmt: skip


RECIPE = {"jobs/recipes/a.yaml": 1}


def test_a_small_upload_is_described_by_files_and_size() -> None:
    upload = Upload({"a": 1_500_000, "b": 199_999, **RECIPE})
    upload.check(["jobs/recipes/a.yaml"])
    assert str(upload) == "3 files, 1.7 MB"


def test_a_large_upload_is_refused_with_its_largest_files() -> None:
    upload = Upload({"small": 1, "dump.xml": 15_000_000, "b/model.bin": 6_000_000, "c": 2, **RECIPE})
    with pytest.raises(
        InputError, match=r"5 files, 21.0 MB, more than 20 MB; the largest are dump.xml \(15.0 MB\), b/model.bin \("
    ):
        upload.check(["jobs/recipes/a.yaml"])


def test_an_upload_without_the_recipe_is_refused() -> None:
    with pytest.raises(InputError, match=r"^runs/best.yaml: excluded from the upload .* copy it to jobs/recipes/"):
        Upload(RECIPE).check(["runs/best.yaml"])
