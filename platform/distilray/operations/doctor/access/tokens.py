"""Whether clients of Ray will send a token, which, and who can read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from distilray.operations.doctor.check import Finding, fail, ok, together, warn
from distilray.operations.ray_token import MODE, PATH, VALUE, Token, find_token, token_file

_MODES = ("token", "disabled")
_GENERATE = "ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token"
_EXPORT = f"export {MODE}=token"


def check_mode(environment: Mapping[str, str], token: Token | None, *, cluster: bool) -> Finding:
    """Clients send the token.

    Args:
        environment: of this process.
        token: what they would send.
        cluster: whether there is a cluster to talk to. A local Ray makes a token of its own.
    """
    mode = environment.get(MODE, "")
    if mode and mode not in _MODES:
        return fail(f"{MODE}={mode} is none of {', '.join(_MODES)}", _EXPORT)
    if mode == "disabled":
        told = f"{MODE}=disabled: whoever reaches a port of Ray runs code"
        return (fail if cluster else warn)(told, _EXPORT)
    if not cluster:
        return ok(f"{MODE} {mode or 'not set'}; a local Ray has a token of its own")
    if not mode:
        return warn(f"{MODE} is not set: a client may send no token, and `ray start` may run open", _EXPORT)
    if token is None:
        return fail(f"{MODE}=token, and there is no token", f"copy that of the cluster, or for a new one: {_GENERATE}")
    return ok(f"{MODE}=token, token from {token.origin}")


def check_file(environment: Mapping[str, str], home: Path) -> Finding:
    """Nobody else reads the token's file, and it does not contradict the variable."""
    file = token_file(environment, home)
    try:
        permissions = file.stat().st_mode & 0o777
    except OSError as error:
        if PATH in environment:
            told = f"{PATH} names {file}: {error.strerror or error}"
            return fail(f"{told}, which ends every client of Ray", f"name a file that can be read, or unset {PATH}")
        return ok(f"no file {file}")
    findings = []
    if permissions & 0o077:
        findings.append(fail(f"{file} has mode {permissions:04o}: others can read it", f"chmod 600 {file}"))
    if not os.access(file, os.R_OK):
        findings.append(fail(f"{file} cannot be read by this user", f"chown it, and chmod 600 {file}"))
    in_file, in_variable = find_token({PATH: str(file)}, home), environment.get(VALUE, "").strip()
    if in_variable and in_file is not None and in_file.value != in_variable:
        findings.append(warn(f"{VALUE} and {file} hold different tokens; the variable wins", f"unset {VALUE}"))
    return together(findings, f"{file} has mode {permissions:04o}")
