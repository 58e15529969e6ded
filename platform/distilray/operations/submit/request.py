"""Builds a submission from a command: entrypoint, files, runtime environment, id. Does not contact the cluster."""

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
from distilray.operations.submit.records import RESOURCES, DriverResources, Submission, submission_id
from distilray.pipeline import read_command
from distilray.runtime.environment import SECRETS_PATH

RUNTIME_ENV = "jobs/runtime_env.yaml"
_KEYS = {"env_vars", "excludes"}
_FORM = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.ASCII | re.DOTALL)
_SECRET_WORD = re.compile(r"(?i)(key|token|secret|passwd|password|passphrase)s?(_|$)")
_PATH_ENDS = ("_FILE", "_PATH", "_DIR")
_RAY_OF_A_JOB = ("RAY_TRAIN_", "RAY_DATA_")  # Ray reads its other variables when a node starts


@dataclass(frozen=True)
class Recipes:
    """The recipes of a command.

    Attributes:
        configs: by the prefix of their keys on the command line.
        files: that are read; the command names the first one.
        option: before the first file.
    """

    configs: Mapping[str, JobConfig]
    files: Sequence[str]
    option: Sequence[str] = ()


RecipeReader = Callable[[str, Sequence[str]], Recipes]  # file and arguments of a command -> its recipes


def job_recipe_reader(config_class: type[JobConfig]) -> RecipeReader:
    """Return what reads the recipe of a job."""

    def read(file: str, overrides: Sequence[str]) -> Recipes:
        return Recipes({"": load_recipe(file, overrides, config_class, keep_tilde=True)}, [file], ["--recipe"])

    return read


def pipeline_recipe_reader(folder: Path) -> RecipeReader:
    """Return what reads the recipes of a pipeline.

    Args:
        folder: of the recipes that are not beside the pipeline.
    """

    def read(file: str, arguments: Sequence[str]) -> Recipes:
        pipeline = read_command([file, *arguments], None, recipes=folder, keep_tilde=True)[0]
        return Recipes({f"{stage.name}.": stage.partial_config() for stage in pipeline.stages}, pipeline.files)

    return read


@dataclass(frozen=True)
class Request:
    """A validated command.

    Attributes:
        id: of its first attempt.
        files: its recipes by their paths in the checkout.
    """

    id: str
    configs: Sequence[JobConfig]
    files: Sequence[str]
    submission: Submission


def build_request(
    job: str,
    read: RecipeReader,
    recipe: str,
    overrides: Sequence[str],
    *,
    root: Path,
    driver: DriverResources,
    variables: Mapping[str, str],
) -> Request:
    """Build the request of a command.

    Args:
        job: as in `python -m jobs.<job>`.
        read: reads its recipes.
        root: the checkout, whose files are uploaded.
        driver: reserved for the driver.
        variables: of `--env` and `--secrets`; they override those of the runtime environment.

    Raises:
        InputError: the recipe does not fit the job, names locations that the cluster cannot find, or is not in the
            checkout.
    """
    for override in overrides:
        if has_credentials(override):
            key = override.partition("=")[0]
            raise InputError(f"{key}: a login in a URI, which job listings would show; use --secrets PATH or a role")
    recipes = read(recipe, overrides)
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
    return Request(base, configs, files, submission)


def job_variables(assignments: Sequence[str], secrets_path: str | None) -> dict[str, str]:
    """Return the variables of `--env NAME=VALUE` options and of `--secrets PATH`.

    Raises:
        InputError: not of that form, a secret, a variable that must not be changed, or a relative path.
    """
    variables = {}
    for number, assignment in enumerate(assignments, 1):
        match = _FORM.fullmatch(assignment)
        if match is None:  # not repeated: it may be a secret
            raise InputError(f"--env number {number}: write NAME=VALUE")
        variables[match[1]] = match[2]
    for name in variables:
        if name == SECRETS_PATH:
            raise InputError(f"--env {name}: use --secrets PATH")
        if name == "PYTHONPATH":
            raise InputError(f"--env {name}: the job would not find its own code; it is set by jobs/runtime_env.yaml")
        if name.startswith("RAY_") and not name.startswith(_RAY_OF_A_JOB):
            raise InputError(f"--env {name}: Ray reads it when a node starts; set it in the cluster file")
    _check_no_secrets(variables, "--env")
    if secrets_path is not None:
        if not PurePosixPath(secrets_path).is_absolute():
            raise InputError(
                f"--secrets {secrets_path}: give the absolute path of a file or folder on the cluster, which all its "
                "machines see; it is not uploaded"
            )
        variables[SECRETS_PATH] = secrets_path
    return variables


def _check_no_secrets(variables: Mapping[str, str], source: str) -> None:
    """Refuse variables that look like secrets, by their name or by a login in a URI; values are not shown."""
    for name, value in variables.items():
        is_path = name.upper().endswith(_PATH_ENDS)
        if has_credentials(value) or (_SECRET_WORD.search(name) and not is_path):
            raise InputError(
                f"{source} {name}: looks like a secret, and Ray shows the variables of a job to everyone who lists "
                "jobs; put it into a file on the cluster and pass --secrets PATH"
            )


def runtime_env(root: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Return the variables and excludes of the checkout's runtime environment.

    Raises:
        InputError: it contains other keys, such as packages, which belong in the image of the cluster, or secrets.
    """
    file = str(root / RUNTIME_ENV)
    values: dict[str, Any] = read_yaml(file)
    if foreign := sorted(set(values) - _KEYS):
        raise InputError(
            f"{file}: '{foreign[0]}' is not sent; packages belong in the image of the cluster, and the only keys "
            f"here are {', '.join(sorted(_KEYS))}"
        )
    env_vars, excludes = values.get("env_vars", {}), values.get("excludes", [])
    if not all(isinstance(value, str) for value in [*env_vars.values(), *excludes]):
        raise InputError(f"{file}: values of env_vars and excludes are text; put a number into quotes")
    _check_no_secrets(env_vars, f"{file}:")
    return env_vars, tuple(excludes)


def _path_in(root: Path, recipe: str) -> str:
    try:
        return Path(expand_home(recipe)).resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{recipe}: outside of the checkout, so the cluster would not have it; copy it to jobs/recipes/"
        ) from None
