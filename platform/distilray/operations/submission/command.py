"""`python -m jobs.submit`: validate here, submit or attach, follow, return the exit code of the job."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from distilray.config.base import JobConfig
from distilray.errors import InputError
from distilray.operations.submission.access import DEFAULT_ADDRESS, choose_address, choose_authentication
from distilray.operations.submission.attempts import Decision, Step, check_writers, decide
from distilray.operations.submission.cluster import (
    Cluster,
    ClusterError,
    DriverResources,
    JobRecord,
    KnownJobError,
)
from distilray.operations.submission.follow import Follower, Timing, WaitedTooLongError, exit_code_of
from distilray.operations.submission.preflight import doubts
from distilray.operations.submission.request import Request, build_request
from distilray.operations.submission.upload import Upload
from distilray.runtime.command_line import EXIT_FAULT, EXIT_INTERRUPTED, CommandParser, exit_code

NAME = "submit"
_RACES = 3  # somebody who gives the same command at the same moment is faster once


def run(
    argv: Sequence[str] | None, *, description: str, root: Path, config_class_of: Callable[[str], type[JobConfig]]
) -> int:
    """Runs the command line and returns its exit code: that of the job, or of what went wrong before it.

    Args:
        description: for the help.
        root: the checkout, whose files are uploaded.
        config_class_of: the config of a job by its name; raises `InputError` for one that cannot be submitted.
    """
    codes = []

    def work() -> None:
        given = _parser(description).parse_intermixed_args(argv)
        codes.append(_run(given, root, config_class_of))

    return exit_code(NAME, work) or codes[0]


def _parser(description: str) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m jobs.{NAME}",
        description=description,
        epilog="The same command attaches to its job while that runs, tries again when it failed or was stopped, and "
        "does nothing when it has succeeded. Exit code: that of the job (0 done, 1 internal fault, 2 bad input, 130 "
        "stopped); 1 not started in time or cluster lost; 2 refused before it was sent; 130 detached by Ctrl-C.",
    )
    add = parser.add_argument
    add("job", metavar="JOB", help="as in `python -m jobs.JOB`")
    add("--recipe", help="YAML file of the checkout, e.g. jobs/recipes/distill/card.yaml")
    add("overrides", nargs="*", metavar="a.b=value", help="changes to the recipe; folders as all machines see them")
    add("--address", metavar="URL", help="of the dashboard; RAY_API_SERVER_ADDRESS, RAY_ADDRESS or "
        f"{DEFAULT_ADDRESS} when left out")  # fmt: skip
    add("--dry-run", action="store_true", help="validate, print what would be sent, ask no cluster")
    add("--detach", action="store_true", help="print the id of the job and do not follow it")
    add("--again", action="store_true", help="another attempt although the last one succeeded")
    add(
        "--pending-minutes", type=float, default=15.0, metavar="N", help="wait for its start, %(default)g when left out"
    )
    add("--entrypoint-num-cpus", type=float, default=0.0, metavar="N", help="reserved for the command itself, which "
        "then runs on any machine that has them; without any of these three it runs on the head")  # fmt: skip
    add("--entrypoint-num-gpus", type=float, default=0.0, metavar="N", help="likewise")
    add("--entrypoint-memory", type=float, default=0.0, metavar="BYTES", help="likewise")
    return parser


def _run(given: argparse.Namespace, root: Path, config_class_of: Callable[[str], type[JobConfig]]) -> int:
    address = choose_address(given.address, os.environ)
    choose_authentication(os.environ, Path.home())
    # Not above: Ray reads the environment that was just completed when it is loaded, here or with the job's module.
    from distilray.operations.submission.client import RayCluster, uploaded_files

    config_class = config_class_of(given.job)
    if given.recipe is None:
        shown = f"python -m jobs.{NAME} --help shows the command"
        raise InputError(f"the following arguments are required: --recipe; {shown}")
    driver = DriverResources(given.entrypoint_num_cpus, given.entrypoint_num_gpus, int(given.entrypoint_memory))
    request = build_request(given.job, config_class, given.recipe, given.overrides, root=root, driver=driver)
    upload = Upload(uploaded_files(root, request.submission.excludes))
    upload.check()
    upload.check_holds(request.recipe, "the recipe")
    if given.dry_run:
        print(plan(request, address, upload), flush=True)
        return 0
    timing = Timing(time.monotonic, time.sleep, pending_limit_s=given.pending_minutes * 60)
    return submit_and_follow(RayCluster(address), request, upload, timing, again=given.again, detach=given.detach)


def plan(request: Request, address: str, upload: Upload) -> str:
    """What would be sent where, a line each."""
    submission = request.submission
    driver = [f"{need:g} {name}" for name, need in submission.driver.needs().items()]
    rows = [
        ("id", request.id),
        ("address", address),
        ("entrypoint", submission.entrypoint),
        ("runs", f"where there is {', '.join(driver)}" if driver else "on the head"),
        ("upload", f"{upload} of {submission.working_dir}"),
        *(("env", f"{name}={value}") for name, value in submission.env_vars.items()),
    ]
    return "\n".join([f"{NAME}: plan, nothing sent", *(f"{name:<16} {value}" for name, value in rows)])


def submit_and_follow(
    cluster: Cluster, request: Request, upload: Upload, timing: Timing, *, again: bool = False, detach: bool = False
) -> int:
    """Submits the request, or finds its job, and follows it; returns the exit code.

    Ctrl-C ends the following, not the job.
    """
    decision = _submitted(cluster, request, upload, again=again)
    if decision.step is Step.DONE:
        return 0
    if detach:
        print(decision.id, flush=True)
        _say(f"it goes on by itself; {_ways(cluster, decision.id)}")
        return 0
    follower = Follower(cluster, decision.id, timing, write=_write, say=_say)
    try:
        record = follower.follow()
    except KeyboardInterrupt:
        _say(f"{decision.id} goes on; {_ways(cluster, decision.id)}")
        return EXIT_INTERRUPTED
    except (WaitedTooLongError, ClusterError) as error:
        _say(f"{decision.id}: {error}; it is left as it is; {_ways(cluster, decision.id)}")
        return EXIT_FAULT
    return _end(record)


def _submitted(cluster: Cluster, request: Request, upload: Upload, *, again: bool) -> Decision:
    """The attempt that runs, or has succeeded; submits it if need be."""
    for _ in range(_RACES):
        known = cluster.jobs()
        decision = decide(request.id, known, again=again)
        if decision.step is not Step.SUBMIT:
            _say(_found(decision))
            return decision
        check_writers(request.id, request.config.run_dir, known)
        _warn(cluster, request)
        before = decision.last
        reason = f", attempt {decision.number} (the last one, {before.id}, is {before.status})" if before else ""
        _say(f"{decision.id}{reason}: sending {upload} to {cluster.address}")
        try:
            cluster.submit(request.submission, decision.id)
        except KnownJobError:
            again = False
            continue
        return decision
    raise ClusterError(f"{request.id}: others submit it all the time; look at `ray job list` and try again")


def _found(decision: Decision) -> str:
    assert decision.last is not None
    if decision.step is Step.DONE:
        return f"{decision.id} has SUCCEEDED already, nothing sent; --again submits another attempt"
    return f"{decision.id} is {decision.last.status} already; attaching to it, nothing sent"


def _warn(cluster: Cluster, request: Request) -> None:
    try:
        machines = cluster.machines()
    except ClusterError as error:
        _say(f"whether the cluster is large enough is not known: {error}")
        return
    for doubt in doubts(request.submission.driver, request.config, machines):
        _say(doubt)


def _end(record: JobRecord) -> int:
    code = exit_code_of(record)
    # Ray's message of a command that failed holds the end of the log, which was printed.
    told = record.message.partition(", last available logs")[0].split("\n", 1)[0] if code else ""
    _say(f"{record.id} {record.status}{': ' if told else ''}{told}" + (f" (exit code {code})" if code else ""))
    return code


def _ways(cluster: Cluster, job_id: str) -> str:
    token = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    # Ray stops no job that waits for its place: without --no-wait its command would wait for that too.
    stop = f"{token}ray job stop --no-wait --address {cluster.address} {job_id}"
    return f"the same command attaches to it again, `{stop}` stops it, once it has its place"


def _say(line: str) -> None:
    print(f"{NAME}: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
