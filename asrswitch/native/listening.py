"""Which processes listen on a port, as ``/proc`` tells (proc(5)). Standard library only: workers use it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from asrswitch.native.processes import parent_of

_PROC = Path("/proc")
_LISTENS = "0A"  # TCP_LISTEN of <net/tcp_states.h>


def listeners(host: str, port: int, proc: Path = _PROC) -> list[int]:
    """The processes that listen on this machine's port; none where the host is another machine.

    Of processes whose parent listens as well (a server's own, that were forked) only the parent is named.
    What belongs to other users is found by root alone.
    """
    sockets = set(_sockets(_addresses(host), port, proc))
    if not sockets:
        return []
    wanted = {f"socket:[{inode}]" for inode in sockets}
    found = [pid for pid in _pids(proc) if _has_open(f"{proc}/{pid}", wanted)]
    return [pid for pid in found if parent_of(pid, proc) not in found]


def _addresses(host: str) -> set[str]:
    """All addresses of a host, without those that this machine has not."""
    found = set()
    with contextlib.suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as ours:
                ours.bind((address[0], 0))  # fails for another machine's
                found.add(str(address[0]))
    return found


def _sockets(addresses: set[str], port: int, proc: Path) -> Iterator[str]:
    """Inodes of sockets that listen on the port, on one of the addresses or on all."""
    for table in ("tcp", "tcp6"):
        # Line by line: connections that were closed stay listed for a minute, and the table grows with them.
        with contextlib.suppress(OSError), (proc / "net" / table).open() as lines:
            next(lines, None)
            for line in lines:
                words = line.split()
                at, _, number = words[1].partition(":")
                if words[3] != _LISTENS or int(number, 16) != port:
                    continue
                address = _address(at)
                if addresses and (address.is_unspecified or str(address) in addresses):
                    yield words[9]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """From the kernel's form: words of four bytes, each in the machine's own order."""
    words = bytes.fromhex(text)
    address = ipaddress.ip_address(
        b"".join(words[begin : begin + 4][::-1] for begin in range(0, len(words), 4))
        if sys.byteorder == "little"
        else words
    )
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _pids(proc: Path) -> list[int]:
    with os.scandir(proc) as entries:
        return sorted(int(entry.name) for entry in entries if entry.name.isdigit())


def _has_open(directory: str, names: set[str]) -> bool:
    # No pathlib: Python keeps each part of its paths, here thousands, in the process that is measured.
    with contextlib.suppress(OSError), os.scandir(f"{directory}/fd") as entries:  # gone, or another user's
        for entry in entries:
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in names:  # noqa: PTH115
                    return True
    return False
