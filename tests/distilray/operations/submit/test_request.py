import shlex
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from distilray.config.base import SeededConfig
from distilray.errors import InputError
from distilray.operations.submit.job_records import DriverResources
from distilray.operations.submit.request import RUNTIME_ENV, build_request, job_recipe_reader, job_variables
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


def test_the_request_is_the_command_of_the_job_from_the_root_of_the_upload(root):
    variables = {"A": "1", "PYTHONPATH": "other"}
    request = request_of(root, "run_dir=/mnt/with space", "seed=3", variables=variables)
    sent, command = request.submission, ["python", "-m", "jobs.distill", "--recipe", "recipe.yaml"]
    assert shlex.split(sent.entrypoint) == [*command, "run_dir=/mnt/with space", "seed=3"]
    assert (sent.working_dir, sent.excludes) == (str(root), ("/runs",))
    assert sent.env_vars == variables  # they override those of the runtime environment
    assert request_of(root).submission.env_vars == {"PYTHONPATH": "platform"}
    assert sent.metadata == {
        "job": "distill",
        "run_dir": "/mnt/with space",
        "command": request.id,
        "driver_resources": "1 GPU",
    }
    assert sent.driver == DriverResources(num_gpus=1)


def test_the_same_command_from_another_folder_is_the_same(root, monkeypatch):
    monkeypatch.chdir(root / "jobs")
    from_inside = request_of(Path(".."))
    assert from_inside.id == request_of(root).id
    assert from_inside.files == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("file", "text", "override", "message"),
    [
        (None, "", "run_dir=s3://key:planted@bucket/run", "run_dir: the URI contains credentials"),
        (None, "", "run_dri=s3://planted@bucket/run", "run_dri: the URI contains credentials"),
        (None, "", "run_dri=/x", "did you mean 'run_dir'"),
        (None, "", "run_dir=runs/x", "run_dir=runs/x: relative"),
        ("recipe.yaml", "run_dir: ftp://me:planted@host/run", "", "run_dir: the URI contains credentials"),
        ("../recipe.yaml", "run_dir: /mnt/run", "", "outside the checkout"),
        (RUNTIME_ENV, "env_vars: {WANDB_API_KEY: planted}", "", "WANDB_API_KEY: looks like a secret"),
        (RUNTIME_ENV, "env_vars: {A: 1}", "", "put numbers in quotes"),
        (RUNTIME_ENV, "excludes: [1]", "", "put numbers in quotes"),
        *[
            (RUNTIME_ENV, f"env_vars: {{}}\n{key}: [planted]", "", f"'{key}' is not sent; packages belong in the image")
            for key in ("pip", "uv", "conda", "py_modules", "container", "working_dir")
        ],
    ],
)
def test_a_request_that_the_cluster_could_not_run_is_refused_without_secrets(root, file, text, override, message):
    if file is not None:
        (root / file).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        request_of(
            root, *filter(None, [override]), recipe="../recipe.yaml" if file == "../recipe.yaml" else "recipe.yaml"
        )
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "secrets_path", "variables"),
    [
        (["A=b=c", "EMPTY="], None, {"A": "b=c", "EMPTY": ""}),
        ([], "/mnt/secrets", {"DISTILRAY_SECRETS_PATH": "/mnt/secrets"}),  # only the path is sent
        # They only resemble secrets.
        (["TOKENIZERS_PARALLELISM=true"], None, {"TOKENIZERS_PARALLELISM": "true"}),
        (["RAY_TRAIN_X_TIMEOUT_S=60", "RAY_DATA_X=1"], None, {"RAY_TRAIN_X_TIMEOUT_S": "60", "RAY_DATA_X": "1"}),
        (["AWS_WEB_IDENTITY_TOKEN_FILE=/run/token"], None, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token"}),
        (["HF_HUB_OFFLINE=0"], None, {"HF_HUB_OFFLINE": "0"}),
        (["MLFLOW_TRACKING_URI=https://x.com/a@b"], None, {"MLFLOW_TRACKING_URI": "https://x.com/a@b"}),
        (["WANDB_PROJECT=me@example.com"], None, {"WANDB_PROJECT": "me@example.com"}),
    ],
)
def test_variables_and_the_path_of_secrets_are_sent(assignments, secrets_path, variables):
    assert job_variables(assignments, secrets_path) == variables


@pytest.mark.parametrize(
    ("assignment", "fix"),
    [
        *[
            (assignment, "--secrets PATH")
            for assignment in (
                "HF_TOKEN=planted",
                "WANDB_API_KEY=planted",
                "wandb_apikey=planted",
                "AWS_ACCESS_KEY_ID=planted",
                "AWS_SECRET_ACCESS_KEY=planted",
                "MLFLOW_TRACKING_PASSWORD=planted",
                "DISTILRAY_API_KEYS=planted",
                "MLFLOW_TRACKING_URI=https://me:planted@mlflow.example.com",
                "MLFLOW_TRACKING_URI=https://planted@mlflow.example.com",
                "DISTILRAY_SECRETS_PATH=/planted",
            )
        ],
        ("PYTHONPATH=/planted", "jobs/runtime_env.yaml"),
        ("RAY_ADDRESS=planted", "cluster file"),
        *[(assignment, "--env number 2: write NAME=VALUE") for assignment in ("planted", "=planted", "A-B=planted")],
    ],
)
def test_secrets_and_variables_that_break_a_job_are_refused_without_their_value(assignment, fix):
    with pytest.raises(InputError, match=fix) as caught:
        job_variables(["A=1", assignment], None)
    assert "planted" not in str(caught.value)


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
    upload = Upload({"a": 1_500_000, "b": 18_499_999, **RECIPE})
    upload.check(["jobs/recipes/a.yaml"])
    assert str(upload) == "3 files, 20.0 MB"


@pytest.mark.parametrize(
    ("files", "recipe", "message"),
    [
        (
            {"small": 1, "dump.xml": 15_000_000, "b/model.bin": 6_000_000, "c": 2, **RECIPE},
            "jobs/recipes/a.yaml",
            r"5 files, 21.0 MB, more than 20 MB; the largest are dump.xml \(15.0 MB\), b/model.bin \(6.0 MB\), c ",
        ),
        (RECIPE, "runs/best.yaml", r"^runs/best.yaml: excluded from the upload .* copy it to jobs/recipes/"),
    ],
    ids=["large", "no recipe"],
)
def test_a_large_upload_and_one_without_the_recipe_are_refused(files, recipe, message) -> None:
    with pytest.raises(InputError, match=message):
        Upload(files).check([recipe])
