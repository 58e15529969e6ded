"""Build and validate a submission (entrypoint, files, runtime environment, id) without contacting the cluster."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distilray.config.base import JobConfig
from distilray.config.paths import expand_home
from distilray.config.recipe import load_recipe, read_yaml
from distilray.errors import InputError
from distilray.operations.locations import check_shared_locations, has_credentials
from distilray.operations.submit.job_records import RESOURCES, DriverResources, Submission, submission_id
from distilray.pipeline import read_command
from distilray.runtime.environment import SECRETS_PATH

RUNTIME_ENV = "jobs/runtime_env.yaml"
_SENT_KEYS = {"env_vars", "excludes"}
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)
_SECRET_WORD = re.compile(r"(?i)(key|token|secret|passwd|password|passphrase)s?(_|$)")
_PATH_SUFFIXES = ("_FILE", "_PATH", "_DIR")
_RAY_JOB_PREFIXES = ("RAY_TRAIN_", "RAY_DATA_")  # Ray reads its other variables only when a node starts


@dataclass(frozen=True)
class CommandRecipes:
    """Recipes of a command.

    Attributes:
        configs: configs by the prefix of their keys on the command line.
        files: files that were read, starting with the one on the command line.
        option: command-line arguments before that file.
    """

    configs: Mapping[str, JobConfig]
    files: Sequence[str]
    option: Sequence[str] = ()


RecipeReader = Callable[[str, Sequence[str]], CommandRecipes]  # (file, other arguments of the command) -> its recipes


def job_recipe_reader(config_class: type[JobConfig]) -> RecipeReader:
    """Return a reader for the recipe of a job."""

    def read(file: str, overrides: Sequence[str]) -> CommandRecipes:
        return CommandRecipes({"": load_recipe(file, overrides, config_class, keep_tilde=True)}, [file], ["--recipe"])

    return read


def pipeline_recipe_reader(folder: Path) -> RecipeReader:
    """Return a reader for the recipes of a pipeline.

    Args:
        folder: contains the recipes that are not next to the pipeline file.
    """

    def read(file: str, arguments: Sequence[str]) -> CommandRecipes:
        pipeline = read_command([file, *arguments], None, recipes=folder, keep_tilde=True)[0]
        return CommandRecipes({f"{stage.name}.": stage.partial_config() for stage in pipeline.stages}, pipeline.files)

    return read


@dataclass(frozen=True)
class SubmitRequest:
    """A validated command.

    Attributes:
        id: id of its first attempt.
        files: paths of its recipes in the checkout.
    """

    id: str
    configs: Sequence[JobConfig]
    files: Sequence[str]
    submission: Submission


def build_request(
    job: str,
    read_recipes: RecipeReader,
    recipe: str,
    overrides: Sequence[str],
    *,
    root: Path,
    driver: DriverResources,
    variables: Mapping[str, str],
) -> SubmitRequest:
    """Build the request for a command.

    Args:
        job: name of the job, as in `python -m jobs.<job>`.
        read_recipes: reads the recipes of the command.
        root: the checkout to upload.
        driver: resources to reserve for the driver.
        variables: from `--env` and `--secrets`; they override those of the runtime environment.

    Raises:
        InputError: the recipe is invalid or outside the checkout, or the cluster could not reach its locations.
    """
    for override in overrides:
        if has_credentials(override):
            key = override.partition("=")[0]
            raise InputError(
                f"{key}: the URI contains credentials, which job listings would show; use --secrets PATH or a role"
            )
    recipes = read_recipes(recipe, overrides)
    for prefix, config in recipes.configs.items():
        check_shared_locations(config, prefix)
    files, configs = [_path_in(root, file) for file in recipes.files], list(recipes.configs.values())
    arguments = [*recipes.option, files[0], *overrides]
    env_vars, excludes = runtime_env(root)
    base = submission_id(job, configs, arguments, driver=driver, variables=variables)
    run_dirs = "\n".join(config.run_dir for config in configs)
    submission = Submission(
        entrypoint=shlex.join(["python", "-m", f"jobs.{job}", *arguments]),
        working_dir=str(root),
        excludes=excludes,
        env_vars={**env_vars, **variables},
        metadata={"job": job, "run_dir": run_dirs, "command": base, RESOURCES: str(driver)},
        driver=driver,
    )
    return SubmitRequest(base, configs, files, submission)


def job_variables(assignments: Sequence[str], secrets_path: str | None) -> dict[str, str]:
    """Return the environment variables from the `--env NAME=VALUE` and `--secrets PATH` options.

    Raises:
        InputError: a value is malformed, a secret, a protected variable or a relative path.
    """
    variables = {}
    for number, assignment in enumerate(assignments, 1):
        match = _ASSIGNMENT.fullmatch(assignment)
        if match is None:  # not printed, since it may be a secret
            raise InputError(f"--env number {number}: write NAME=VALUE")
        variables[match[1]] = match[2]
    for name in variables:
        if name == SECRETS_PATH:
            raise InputError(f"--env {name}: use --secrets PATH")
        if name == "PYTHONPATH":
            raise InputError(f"--env {name}: the job would not find its own code; jobs/runtime_env.yaml sets it")
        if name.startswith("RAY_") and not name.startswith(_RAY_JOB_PREFIXES):
            raise InputError(f"--env {name}: Ray reads it when a node starts; set it in the cluster file")
    _check_no_secrets(variables, "--env")
    if secrets_path is not None:
        if not PurePosixPath(secrets_path).is_absolute():
            raise InputError(
                f"--secrets {secrets_path}: give the absolute path of a file or folder on the cluster, which all its "
                "machines can read; it is not uploaded"
            )
        variables[SECRETS_PATH] = secrets_path
    return variables


def _check_no_secrets(variables: Mapping[str, str], source: str) -> None:
    """Refuse variables whose name or value looks like a secret, without printing the value."""
    for name, value in variables.items():
        is_path = name.upper().endswith(_PATH_SUFFIXES)
        if has_credentials(value) or (_SECRET_WORD.search(name) and not is_path):
            raise InputError(
                f"{source} {name}: looks like a secret, and Ray shows the variables of a job to anyone who lists "
                "jobs; store it in a file on the cluster and pass --secrets PATH"
            )


def runtime_env(root: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return the variables and excludes of the checkout's runtime environment.

    Raises:
        InputError: it contains secrets or other keys, such as packages, which belong in the image of the cluster.
    """
    file = str(root / RUNTIME_ENV)
    values: dict[str, Any] = read_yaml(file)
    if unsupported := sorted(set(values) - _SENT_KEYS):
        raise InputError(
            f"{file}: '{unsupported[0]}' is not sent; packages belong in the image of the cluster, and the supported "
            f"keys are {', '.join(sorted(_SENT_KEYS))}"
        )
    env_vars, excludes = values.get("env_vars", {}), values.get("excludes", [])
    if not all(isinstance(value, str) for value in [*env_vars.values(), *excludes]):
        raise InputError(f"{file}: values of env_vars and excludes must be strings; put numbers in quotes")
    _check_no_secrets(env_vars, f"{file}:")
    return env_vars, tuple(excludes)


def _path_in(root: Path, recipe: str) -> str:
    try:
        return Path(expand_home(recipe)).resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{recipe}: outside the checkout, so the cluster would not have it; copy it to jobs/recipes/"
        ) from None
