"""From a command to what is sent: the entrypoint, the runtime environment, the id. Nothing is asked of a cluster."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilray.config.base import JobConfig
from distilray.config.recipe import load_recipe, read_yaml
from distilray.errors import InputError
from distilray.operations.submission.attempts import submission_id
from distilray.operations.submission.cluster import DriverResources, Submission
from distilray.operations.submission.places import check_places, needs_hub

RUNTIME_ENV = "jobs/runtime_env.yaml"
_KEYS = {"env_vars", "excludes"}
_OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True)
class Request:
    """A validated command.

    Attributes:
        id: of its first attempt.
        recipe: by its path in the checkout.
    """

    id: str
    config: JobConfig
    recipe: str
    submission: Submission


def build_request(
    job: str,
    config_class: type[JobConfig],
    recipe: str,
    overrides: Sequence[str],
    *,
    root: Path,
    driver: DriverResources,
) -> Request:
    """The request of a command.

    Args:
        job: as in `python -m jobs.<job>`.
        root: the checkout, whose files are uploaded.
        driver: what is reserved for the command itself.

    Raises:
        InputError: the recipe does not fit the job, names places that a cluster could not find, or lies elsewhere.
    """
    config = load_recipe(recipe, overrides, config_class)
    check_places(config)
    inside = _path_in(root, recipe)
    arguments = ["--recipe", inside, *overrides]
    env_vars, excludes = runtime_env(root)
    base = submission_id(job, config, arguments)
    submission = Submission(
        entrypoint=shlex.join(["python", "-m", f"jobs.{job}", *arguments]),
        working_dir=str(root),
        excludes=excludes,
        env_vars={**env_vars, _OFFLINE: "0" if needs_hub(config) else "1"},
        metadata={"job": job, "run_dir": config.run_dir, "command": base},
        driver=driver,
    )
    return Request(base, config, inside, submission)


def runtime_env(root: Path) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Variables and excludes of the checkout's runtime environment.

    Raises:
        InputError: it asks for more than that, as for packages, which belong into the image of the cluster.
    """
    file = str(root / RUNTIME_ENV)
    values: dict[str, Any] = read_yaml(file)
    if foreign := sorted(set(values) - _KEYS):
        raise InputError(
            f"{file}: '{foreign[0]}' is not sent; packages belong into the image of the cluster, and the only keys "
            f"here are {', '.join(sorted(_KEYS))}"
        )
    env_vars, excludes = values.get("env_vars", {}), values.get("excludes", [])
    if not all(isinstance(value, str) for value in [*env_vars.values(), *excludes]):
        raise InputError(f"{file}: values of env_vars and excludes are text; put a number into quotes")
    return env_vars, tuple(excludes)


def _path_in(root: Path, recipe: str) -> str:
    try:
        return Path(recipe).resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise InputError(
            f"{recipe}: lies outside of the checkout, so the cluster would not have it; copy it to jobs/recipes/"
        ) from None
