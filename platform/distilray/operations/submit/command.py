"""Command line of `jobs.submit`: validate, submit or attach, follow, return the exit code of the job."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distilray.errors import InputError
from distilray.operations.access import DEFAULT_ADDRESS, dashboard_url, enable_token_auth
from distilray.operations.submit.follow import Follower, FollowTimeoutError, Timing, exit_code_of, stop_job
from distilray.operations.submit.job_records import (
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
from distilray.operations.submit.request import RecipeReader, SubmitRequest, build_request, job_variables
from distilray.operations.submit.upload import Upload
from distilray.runtime.command_line import EXIT_INTERNAL_ERROR, EXIT_INTERRUPTED, CommandParser, run_cli

if TYPE_CHECKING:
    from distilray.operations.submit.client import ClusterClient

NAME = "submit"
_SUBMIT_ATTEMPTS = 3  # another process may submit the same command at the same time


def run(
    argv: Sequence[str] | None, *, description: str, root: Path, recipe_reader: Callable[[str], RecipeReader]
) -> int:
    """Run the command line and return the exit code of the job, or that of an error before the job starts.

    Args:
        description: shown in the help.
        root: the checkout to upload.
        recipe_reader: returns the recipe reader of a job; raises `InputError` if the job cannot be submitted.
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
        epilog="While a job is pending or running, repeating its command attaches to it; after that, it submits the "
        "job again, which skips a complete run. Exit codes: those of the job (0 success, 1 internal error, 2 bad "
        "input, 130 stopped); 1 if it did not start in time or the connection to the cluster was lost; 2 if it was "
        "refused before submission; 130 if Ctrl-C detached from it.",
    )
    add = parser.add_argument
    add("job", nargs="?", metavar="JOB", help="name of the job, as in `python -m jobs.JOB`")
    add("--recipe", help="YAML file in the checkout, e.g. jobs/recipes/distill/card.yaml; not needed for a pipeline")
    add(
        "overrides",
        nargs="*",
        metavar="a.b=value",
        help="changes to the recipe; paths must exist on all machines",
    )
    add("--only", metavar="STAGE,...", help="stages to run (run_pipeline only); --skip excludes stages")
    add("--skip", metavar="STAGE,...", help=argparse.SUPPRESS)
    add("--secrets", metavar="PATH", help="file on the cluster with NAME=VALUE lines, or folder with a file per "
        "variable, which the job loads into its environment; only the path is sent")  # fmt: skip
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable of the job; not for "
        "secrets; may be repeated")  # fmt: skip
    add("--address", metavar="URL", help="address of the dashboard; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or "
        f"{DEFAULT_ADDRESS}")  # fmt: skip
    add("--dry-run", action="store_true", help="validate and print the submission without contacting the cluster")
    add("--detach", action="store_true", help="print the id of the job and exit without following it")
    add("--stop", metavar="ID", help="stop a running or pending job instead of submitting one")
    add("--again", action="store_true", help=argparse.SUPPRESS)
    add(
        "--pending-minutes",
        type=float,
        default=15.0,
        metavar="N",
        help="how long to wait for the job to start; default: %(default)g",
    )
    add("--entrypoint-num-cpus", type=float, default=0.0, metavar="N", help="CPUs reserved for the driver, which then "
        "runs on any machine that has them; without reserved resources, it runs on the head")  # fmt: skip
    add("--entrypoint-num-gpus", type=float, default=0.0, metavar="N", help="GPUs reserved for the driver")
    add("--entrypoint-memory", type=float, default=0.0, metavar="BYTES", help="memory reserved for the driver")
    return parser


def _run(args: argparse.Namespace, root: Path, recipe_reader: Callable[[str], RecipeReader]) -> int:
    if args.again:
        raise InputError("--again was removed: a job that succeeded is now always submitted again")
    address = dashboard_url(args.address, os.environ)
    enable_token_auth(os.environ, Path.home())
    # Not at the top: Ray reads the environment variables set above when it is first imported.
    from distilray.operations.submit.client import ClusterClient

    timing = Timing(time.monotonic, time.sleep, pending_limit_s=args.pending_minutes * 60)
    if args.stop is not None:
        if args.job is not None or args.dry_run:
            raise InputError("--stop ID: cannot be combined with JOB or --dry-run")
        stop_job(ClusterClient(address), args.stop, timing, notify=_notify)
        return 0
    _require("JOB", args.job)
    read_recipes = recipe_reader(args.job)
    if args.recipe is None and args.overrides and "=" not in args.overrides[0]:
        args.recipe = args.overrides.pop(0)
    _require("--recipe", args.recipe)
    stage_options = [
        text for name in ("only", "skip") if (value := getattr(args, name)) for text in (f"--{name}", value)
    ]
    request = build_request(
        args.job,
        read_recipes,
        args.recipe,
        [*args.overrides, *stage_options],
        root=root,
        driver=DriverResources(args.entrypoint_num_cpus, args.entrypoint_num_gpus, int(args.entrypoint_memory)),
        variables=job_variables(args.env, args.secrets),
    )
    upload = Upload.of(root, request.submission.excludes)
    upload.check(request.files)
    if args.dry_run:
        print(describe_submission(request, address, upload), flush=True)
        return 0
    return submit_and_follow(ClusterClient(address), request, upload, timing, detach=args.detach)


def _require(name: str, value: str | None) -> None:
    if value is None:
        raise InputError(f"the following arguments are required: {name}; see python -m jobs.{NAME} --help")


def describe_submission(request: SubmitRequest, address: str, upload: Upload) -> str:
    """Return a table of what would be sent, and where."""
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
    cluster: ClusterClient, request: SubmitRequest, upload: Upload, timing: Timing, *, detach: bool = False
) -> int:
    """Submit the request or attach to its job, follow it, and return its exit code. Ctrl-C detaches from the job."""
    job_id = _submit_or_attach(cluster, request, upload)
    if detach:
        print(job_id, flush=True)
        _notify(f"the job continues on the cluster; {_next_commands(cluster, job_id)}")
        return 0
    follower = Follower(cluster, job_id, timing, write=_write, notify=_notify)
    try:
        record = follower.follow()
    except KeyboardInterrupt:
        _notify(f"{job_id} continues on the cluster; {_next_commands(cluster, job_id)}")
        return EXIT_INTERRUPTED
    except (FollowTimeoutError, ClusterError) as error:
        _notify(f"{job_id}: {error}; the job was not stopped; {_next_commands(cluster, job_id)}")
        return EXIT_INTERNAL_ERROR
    return _report_end(record)


def _submit_or_attach(cluster: ClusterClient, request: SubmitRequest, upload: Upload) -> str:
    """Return the id of the active attempt, after submitting one if there is none."""
    for _ in range(_SUBMIT_ATTEMPTS):
        known = cluster.jobs()
        attempt = next_attempt(request.id, known)
        last = attempt.last
        if last is not None and not last.ended:
            _notify(f"{last.id} is already {last.describe_status()}; attaching to it, nothing sent")
            return last.id
        for config in request.configs:
            check_run_dir_free(request.id, config.run_dir, known, address=cluster.address)
        _warn_if_too_small(cluster, request)
        reason = f", attempt {attempt.number} (the previous one, {last.id}, is {last.status})" if last else ""
        _notify(f"{attempt.id}{reason}: sending {upload} to {cluster.address}")
        try:
            cluster.submit(request.submission, attempt.id)
        except DuplicateJobError:
            continue
        return attempt.id
    raise ClusterError(f"{request.id}: other processes keep submitting this command; see `ray job list` and try again")


def _warn_if_too_small(cluster: ClusterClient, request: SubmitRequest) -> None:
    try:
        machines = cluster.machines()
    except ClusterError as error:
        _notify(f"cannot check whether the cluster is large enough: {error}")
        return
    driver = request.submission.driver
    warnings = (warning for config in request.configs for warning in capacity_warnings(driver, config, machines))
    for warning in dict.fromkeys(warnings):
        _notify(warning)


def _report_end(record: JobRecord) -> int:
    code = exit_code_of(record)
    # Ray's message contains the end of the log, which was already printed.
    message = one_line(record.message.partition(", last available logs")[0]) if code else ""
    _notify(f"{record.id} {record.status}{': ' if message else ''}{message}" + (f" (exit code {code})" if code else ""))
    return code


def _next_commands(cluster: ClusterClient, job_id: str) -> str:
    return f"repeat the command to attach to it again, or stop it with `{stop_command(cluster.address, job_id)}`"


def _notify(line: str) -> None:
    print(f"{NAME}: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
