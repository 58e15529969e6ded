"""`python -m jobs.submit`: validate here, submit or attach, follow, return the exit code of the job.

The files of the checkout that Ray uploads with a job.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathspec import PathSpec

from distilray.errors import InputError
from distilray.operations.access import DEFAULT_ADDRESS, dashboard_url, enable_token_auth
from distilray.operations.submit.follow import Follower, FollowTimeoutError, Timing, exit_code_of, stop_job
from distilray.operations.submit.records import (
    ClusterError,
    DriverResources,
    DuplicateJobError,
    JobRecord,
    capacity_warnings,
    check_run_dir_free,
    next_attempt,
    one_line,
    stop_command,
)
from distilray.operations.submit.request import RecipeReader, Request, build_request, job_variables
from distilray.runtime.command_line import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED, CommandParser, run_cli

if TYPE_CHECKING:
    from distilray.operations.submit.client import Cluster


_RAY_EXCLUDES = (".git", ".venv", "venv", "__pycache__")  # by Ray itself, unless a variable overrides them
_IGNORE_FILES = (".gitignore", ".rayignore")
_MAX_MB = 20  # ours holds less than 2; Ray itself gives up at 100, and keeps uploads in the memory of the head
_SHOWN = 3


@dataclass(frozen=True)
class Upload:
    """The files that Ray uploads with their bytes, by their path in the checkout."""

    files: Mapping[str, int]

    @classmethod
    def of(cls, root: Path, excludes: Sequence[str]) -> Upload:
        """List the files as Ray does: without those that `excludes` or an ignore file of their folders name."""
        rules = [(root, PathSpec.from_lines("gitignore", [*_RAY_EXCLUDES, *excludes]))]
        return cls({file.relative_to(root).as_posix(): file.stat().st_size for file in _walk(root, rules)})

    def __str__(self) -> str:
        return f"{len(self.files):,} files, {sum(self.files.values()) / 1e6:.1f} MB"

    def check(self, recipes: Sequence[str]) -> None:
        """Refuse an upload that is too large or does not contain its recipes.

        Raises:
            InputError: names the largest files, or the recipe.
        """
        if sum(self.files.values()) > _MAX_MB * 1e6:
            largest = sorted(self.files.items(), key=lambda file: -file[1])[:_SHOWN]
            named = ", ".join(f"{path} ({size / 1e6:.1f} MB)" for path, size in largest)
            raise InputError(
                f"the upload would hold {self}, more than {_MAX_MB} MB; the largest are {named}: move data out of the "
                "checkout, or name it in .rayignore"
            )
        if absent := next((recipe for recipe in recipes if recipe not in self.files), None):
            raise InputError(
                f"{absent}: the upload leaves it out (.gitignore, .rayignore or jobs/runtime_env.yaml), so the cluster "
                "would not find the recipe; copy it to jobs/recipes/"
            )


def _walk(path: Path, rules: Sequence[tuple[Path, PathSpec[Any]]]) -> Iterator[Path]:
    for name in _IGNORE_FILES:
        if (path / name).is_file():
            rules = [*rules, (path, PathSpec.from_lines("gitignore", (path / name).read_text().splitlines()))]
    if any(spec.match_file(str(path.relative_to(folder))) for folder, spec in rules):
        return
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _walk(inner, rules)
    elif path.is_file():
        yield path


NAME = "submit"
_RACES = 3  # how often another submission of the same command may come first


def run(
    argv: Sequence[str] | None, *, description: str, root: Path, recipe_reader: Callable[[str], RecipeReader]
) -> int:
    """Run the command line and return the exit code of the job, or that of an error before it.

    Args:
        description: for the help.
        root: the checkout, whose files are uploaded.
        recipes_of: returns what reads the recipes of a job; raises `InputError` for one that cannot be submitted.
    """
    codes = []

    def work() -> None:
        args = _parser(description).parse_intermixed_args(argv)
        codes.append(_run(args, root, recipe_reader))

    return run_cli(NAME, work) or codes[0]


def _parser(description: str) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m jobs.{NAME}",
        description=description,
        epilog="The same command attaches to its job while that is pending or running, and submits it again after its "
        "end; a job skips a run that is complete. Exit code: that of the job (0 done, 1 internal error, 2 bad input, "
        "130 stopped); 1 not started in time or cluster lost; 2 refused before it was sent; 130 detached by Ctrl-C.",
    )
    add = parser.add_argument
    add("job", nargs="?", metavar="JOB", help="as in `python -m jobs.JOB`")
    add("--recipe", help="YAML file of the checkout, e.g. jobs/recipes/distill/card.yaml; a pipeline needs no --recipe")
    add("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe; folders as all machines see them")
    add("--only", metavar="STAGE,...", help="of run_pipeline; likewise --skip")
    add("--skip", metavar="STAGE,...", help=argparse.SUPPRESS)
    add("--secrets", metavar="PATH", help="file on the cluster with NAME=VALUE lines, or folder with a file per "
        "variable, that the job loads into its environment; only the path is sent")  # fmt: skip
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable of the job, not a "
        "secret; may be repeated")  # fmt: skip
    add("--address", metavar="URL", help="of the dashboard; RAY_API_SERVER_ADDRESS, RAY_ADDRESS or "
        f"{DEFAULT_ADDRESS} when left out")  # fmt: skip
    add("--dry-run", action="store_true", help="validate, print what would be sent, ask no cluster")
    add("--detach", action="store_true", help="print the id of the job and do not follow it")
    add("--stop", metavar="ID", help="stop a job of the cluster, also one that is pending, instead of submitting one")
    add("--again", action="store_true", help=argparse.SUPPRESS)
    add("--pending-minutes", type=float, default=15.0, metavar="N", help="limit of the wait for its start; %(default)g")
    add("--entrypoint-num-cpus", type=float, default=0.0, metavar="N", help="reserved for the driver, which then runs "
        "on any machine that has them; without any of these three it runs on the head")  # fmt: skip
    add("--entrypoint-num-gpus", type=float, default=0.0, metavar="N", help="likewise")
    add("--entrypoint-memory", type=float, default=0.0, metavar="BYTES", help="likewise")
    return parser


def _run(args: argparse.Namespace, root: Path, recipe_reader: Callable[[str], RecipeReader]) -> int:
    if args.again:
        raise InputError("--again was removed: a job that succeeded is now always submitted again")
    address = dashboard_url(args.address, os.environ)
    enable_token_auth(os.environ, Path.home())
    # Not above: Ray reads the environment that was just completed when it is loaded, here or with the job's module.
    from distilray.operations.submit.client import Cluster

    timing = Timing(time.monotonic, time.sleep, pending_limit_s=args.pending_minutes * 60)
    if args.stop is not None:
        if args.job is not None or args.dry_run:
            raise InputError("--stop ID: takes no JOB and no --dry-run")
        stop_job(Cluster(address), args.stop, timing, say=_say)
        return 0
    _require("JOB", args.job)
    read = recipe_reader(args.job)
    if args.recipe is None and args.overrides and "=" not in args.overrides[0]:
        args.recipe = args.overrides.pop(0)
    _require("--recipe", args.recipe)
    chosen = [text for name in ("only", "skip") if (value := getattr(args, name)) for text in (f"--{name}", value)]
    request = build_request(
        args.job,
        read,
        args.recipe,
        [*args.overrides, *chosen],
        root=root,
        driver=DriverResources(args.entrypoint_num_cpus, args.entrypoint_num_gpus, int(args.entrypoint_memory)),
        variables=job_variables(args.env, args.secrets),
    )
    upload = Upload.of(root, request.submission.excludes)
    upload.check(request.files)
    if args.dry_run:
        print(plan(request, address, upload), flush=True)
        return 0
    return submit_and_follow(Cluster(address), request, upload, timing, detach=args.detach)


def _require(name: str, value: str | None) -> None:
    if value is None:
        shown = f"python -m jobs.{NAME} --help shows the command"
        raise InputError(f"the following arguments are required: {name}; {shown}")


def plan(request: Request, address: str, upload: Upload) -> str:
    """Describe what would be sent where, one line each."""
    submission = request.submission
    rows = [
        ("id", request.id),
        ("address", address),
        ("entrypoint", submission.entrypoint),
        ("driver", f"any machine with {submission.driver}" if submission.driver.needs() else "on the head"),
        ("upload", f"{upload} of {submission.working_dir}"),
        *(("env", f"{name}={value}") for name, value in submission.env_vars.items()),
    ]
    return "\n".join([f"{NAME}: plan, nothing sent", *(f"{name:<16} {value}" for name, value in rows)])


def submit_and_follow(
    cluster: Cluster, request: Request, upload: Upload, timing: Timing, *, detach: bool = False
) -> int:
    """Submit the request, or attach to its job, and follow it; return the exit code.

    Ctrl-C detaches; the job continues.
    """
    job_id = _submit_or_attach(cluster, request, upload)
    if detach:
        print(job_id, flush=True)
        _say(f"the job continues on the cluster; {_next_commands(cluster, job_id)}")
        return 0
    follower = Follower(cluster, job_id, timing, write=_write, say=_say)
    try:
        record = follower.follow()
    except KeyboardInterrupt:
        _say(f"{job_id} continues on the cluster; {_next_commands(cluster, job_id)}")
        return EXIT_INTERRUPTED
    except (FollowTimeoutError, ClusterError) as error:
        _say(f"{job_id}: {error}; it was not stopped; {_next_commands(cluster, job_id)}")
        return EXIT_INTERNAL_ERROR
    return _report_end(record)


def _submit_or_attach(cluster: Cluster, request: Request, upload: Upload) -> str:
    """Return the id of the active attempt; submit one if there is none."""
    for _ in range(_RACES):
        known = cluster.jobs()
        attempt = next_attempt(request.id, known)
        last = attempt.last
        if last is not None and not last.ended:
            _say(f"{last.id} is already {last.describe_status()}; attaching to it, nothing sent")
            return last.id
        for config in request.configs:
            check_run_dir_free(request.id, config.run_dir, known, address=cluster.address)
        _warn(cluster, request)
        reason = f", attempt {attempt.number} (the previous one, {last.id}, is {last.status})" if last else ""
        _say(f"{attempt.id}{reason}: sending {upload} to {cluster.address}")
        try:
            cluster.submit(request.submission, attempt.id)
        except DuplicateJobError:
            continue
        return attempt.id
    raise ClusterError(f"{request.id}: others keep submitting the same command; see `ray job list` and try again")


def _warn(cluster: Cluster, request: Request) -> None:
    try:
        machines = cluster.machines()
    except ClusterError as error:
        _say(f"cannot check whether the cluster is large enough: {error}")
        return
    found = (
        doubt for config in request.configs for doubt in capacity_warnings(request.submission.driver, config, machines)
    )
    for doubt in dict.fromkeys(found):
        _say(doubt)


def _report_end(record: JobRecord) -> int:
    code = exit_code_of(record)
    # Ray's message of a command that failed contains the end of the log, which was printed.
    message = one_line(record.message.partition(", last available logs")[0]) if code else ""
    _say(f"{record.id} {record.status}{': ' if message else ''}{message}" + (f" (exit code {code})" if code else ""))
    return code


def _next_commands(cluster: Cluster, job_id: str) -> str:
    return f"the same command attaches to it again, `{stop_command(cluster.address, job_id)}` stops it"


def _say(line: str) -> None:
    print(f"{NAME}: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
