"""Listening sockets of a process and its descendants, from /proc."""

import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import processes_below

_LISTENING = "0A"


@dataclass(frozen=True, order=True)
class Listener:
    """Listening TCP socket with the name of its process."""

    port: int
    host: str
    role: str

    @property
    def is_loopback(self) -> bool:
        return self.host in {"127.0.0.1", "::1"}

    @property
    def address(self) -> str:
        """Address for connections from this machine."""
        return f"{'127.0.0.1' if self.host in {'0.0.0.0', '::'} else self.host}:{self.port}"


def command(pid: int) -> str:
    """Return the command line of a process, or "" if it has exited."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listeners_below(pid: int) -> list[Listener]:
    """Return the listening sockets of a process and its descendants."""
    addresses, listeners = _addresses(), set()
    for each in processes_below(pid):
        name = command(each).split(" ")[0]
        role = name.split(".")[0] if name.startswith("ray::") else name.rpartition("/")[2]
        for descriptor in Path(f"/proc/{each}/fd").glob("*"):
            try:
                match = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            except OSError:
                continue
            if match and match[1] in addresses:
                listeners.add(Listener(*addresses[match[1]], role))
    return sorted(listeners)


def _addresses() -> dict[str, tuple[int, str]]:
    """Return port and host of all listening sockets of this machine by inode."""
    addresses = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                host, port = fields[1].split(":")
                packed = b"".join(struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8))
                addresses[fields[9]] = int(port, 16), socket.inet_ntop(family, packed)
    return addresses
