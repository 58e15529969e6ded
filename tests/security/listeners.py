"""Which processes below one of this machine listen, and where: from /proc."""

import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import processes_below

_LISTENING = "0A"


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket: what its process calls itself, the address it is bound to, the port."""

    role: str
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return self.host in {"127.0.0.1", "::1"}

    @property
    def address(self) -> str:
        """Where it can be reached from this machine."""
        return f"{'127.0.0.1' if self.host in {'0.0.0.0', '::'} else self.host}:{self.port}"


def command(pid: int) -> str:
    """The command line of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def listeners_below(pid: int) -> list[Listener]:
    """The listening sockets of a process and of all that it has started."""
    places = _places()
    found = {
        Listener(_role(command(each)), *places[inode])
        for each in processes_below(pid)
        for inode in _inodes(each)
        if inode in places
    }
    return sorted(found, key=lambda listener: listener.port)


def _role(text: str) -> str:
    name = text.split(" ")[0]
    return name.split(".")[0] if name.startswith("ray::") else name.rpartition("/")[2]


def _inodes(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
        except OSError:
            continue
        if match:
            found.add(match[1])
    return found


def _places() -> dict[str, tuple[str, int]]:
    """Host and port of every listening socket of this machine, by inode."""
    found = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                host, port = fields[1].split(":")
                words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
                packed = b"".join(struct.pack("=I", word) for word in words)
                found[fields[9]] = socket.inet_ntop(family, packed), int(port, 16)
    return found
