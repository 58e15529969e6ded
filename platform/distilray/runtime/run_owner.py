"""Ownership of run folders: `owner.json` names the one process that may write to a folder.

An owner on this machine is alive as long as its process exists. An owner on another machine or in another container is
alive as long as it renews the file; otherwise it can be replaced after `EXPIRY_S`.
"""

import contextlib
import datetime
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from distilray.errors import InputError
from distilray.runtime import storage

OWNER_FILE = "owner.json"
RENEWAL_S = 10.0
EXPIRY_S = 45.0  # several renewals, because a shared file system may show changes late
_STALE_S = 600.0  # an owner silent for this long is dead, even if the clocks differ

Values = dict[str, Any]


class RunOwner:
    """Context manager that makes this process the owner of a run folder.

    Raises:
        InputError: the folder has another live owner.
    """

    def __init__(self, run_uri: str, *, renewal_s: float = RENEWAL_S, expiry_s: float = EXPIRY_S) -> None:
        self._run_uri, self._uri = run_uri, storage.join(run_uri, OWNER_FILE)
        self._renewal_s, self._expiry_s, self._poll_s = renewal_s, expiry_s, min(0.5, renewal_s)
        self._record = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "process": _process_start_time(os.getpid()),
            "scope": _pid_namespace(),
        }
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run-owner", daemon=True)

    def __enter__(self) -> "RunOwner":
        contended = not storage.is_local(self._uri)  # an object store has no exclusive creation
        while not self._create():
            contended = True
            other = self._read_other()
            if other is not None and self._is_alive(other):
                raise InputError(self._conflict_message(other))
            with contextlib.suppress(FileNotFoundError):
                storage.remove_file(self._uri)
        if contended:  # another process may have removed the stale file at the same time, and with it our new one
            time.sleep(self._poll_s)
            self.check()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._thread.join()
        if self._is_ours(_read_record(self._uri)):
            storage.remove_file(self._uri)

    def check(self) -> None:
        """Check that no other process has taken over the folder, which can happen after a long suspension.

        Raises:
            InputError: another process owns the folder.
        """
        other = _read_record(self._uri)
        if not self._is_ours(other):
            raise InputError(self._conflict_message(other or {}))

    def _create(self) -> bool:
        """Write the record if there is none. On a local file system, only one of several processes succeeds."""
        if not storage.is_local(self._uri):
            if storage.exists(self._uri):
                return False
            storage.write_bytes(self._uri, self._content())
            return True
        storage.make_folder(self._run_uri)
        try:
            with storage.local_path(self._uri).open("xb") as file:
                file.write(self._content())
        except FileExistsError:
            return False
        except OSError as error:
            raise InputError(f"{self._uri}: cannot be written ({error.strerror}); choose another run_dir") from None
        return True

    def _content(self) -> bytes:
        return json.dumps({**self._record, "renewed": time.time()}).encode()

    def _renew(self) -> None:
        while not self._released.wait(self._renewal_s):
            # A disk that is briefly full or unavailable must not stop the run; its own writes will fail if it persists.
            with contextlib.suppress(InputError, OSError):
                if not self._is_ours(_read_record(self._uri)):
                    return
                storage.write_bytes(self._uri, self._content())

    def _read_other(self) -> Values | None:
        """Read the record of the current owner, which may still be writing it."""
        record = _read_record(self._uri)
        if record is None:
            time.sleep(self._poll_s)
            record = _read_record(self._uri)
        return record

    def _is_ours(self, record: Values | None) -> bool:
        return record is not None and record["id"] == self._record["id"]

    def _is_alive(self, other: Values) -> bool:
        if other["scope"] == self._record["scope"]:
            return bool(_process_start_time(other["pid"]) == other["process"])
        if time.time() - other["renewed"] > _STALE_S:
            return False
        print(
            f"{self._run_uri}: owned by PID {other['pid']} on {other['host']}; waiting {self._expiry_s:g} s "
            "to see whether it is still alive",
            file=sys.stderr,
            flush=True,
        )
        deadline = time.monotonic() + self._expiry_s
        while time.monotonic() < deadline:
            time.sleep(self._poll_s)
            latest = _read_record(self._uri)
            if latest is None:
                return False
            if latest["renewed"] != other["renewed"]:
                return True
        return False

    def _conflict_message(self, other: Values) -> str:
        if not other:
            return f"run_dir={self._run_uri}: its {OWNER_FILE} was removed during the run; run the command again"
        return (
            f"run_dir={self._run_uri}: in use by PID {other['pid']} on {other['host']}, which has owned it "
            f"since {other['since']}; wait for it, stop it, or choose another run_dir"
        )


def check_visible(run_uri: str) -> None:
    """Check on a worker that it sees the run folder of the driver.

    Raises:
        InputError: the folder is not visible; the message names this node.
    """
    if not storage.exists(storage.join(run_uri, OWNER_FILE)):
        raise InputError(
            f"run_dir={run_uri}: node {socket.gethostname()} does not share this folder with the driver; choose a "
            "folder on a file system that all nodes mount, or an object store"
        )


def _read_record(uri: str) -> Values | None:
    """Return the record of an owner, or None if there is no valid one."""
    try:
        record = json.loads(storage.read_bytes(uri))
    except (FileNotFoundError, ValueError):
        return None
    keys = {"id", "host", "pid", "since", "process", "scope", "renewed"}
    return record if isinstance(record, dict) and keys <= set(record) else None


def _pid_namespace() -> str:
    """Return an id of the PID namespace of this process: the boot of the machine and the container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _process_start_time(pid: int) -> str:
    """Return the start time of a process in ticks since boot, which distinguishes it from a later one with its PID."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
