"""Where a server on this machine listens, and how to ask it something."""

from __future__ import annotations

import json
import socket

from distilray.errors import InputError


def claim_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a look whether it can be bound.

    Raises:
        InputError: the port is taken, or the host is not an address of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do it: a port whose last connections are still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{host}:{port}: {reason}; stop what listens there or choose another with port=...") from None


def base_url(host: str, port: int) -> str:
    """The URL of a host and port; an IPv6 address gets its brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl_line(url: str) -> str:
    """A command that asks the service something."""
    body = json.dumps({"input_data": ["Paris is [MASK] of France"]})
    return f"curl {url}/score -H 'content-type: application/json' -d '{body}'"
