"""Checks before the start: free ports, and servers not older than their data.

The data folder keeps a note of the embedded servers' ports and of the newest version that opened it.
"""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import subprocess
from pathlib import Path
from typing import Final

from deploy.local.data_folder import CannotStart, DataFolder

_PORTS: Final = "ports.json"
_PORT_CANDIDATES: Final = 500
_HIGHEST_PORT: Final = 65535
_VERSIONS: Final = "versions.json"
_VERSION_TIMEOUT: Final = 30
"""Seconds until a program must have printed its version."""


def require_free_port(host: str, port: int) -> None:
    """Check that the API can listen on MIRROR_HOST and MIRROR_PORT.

    Raises CannotStart.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise CannotStart(f"MIRROR_HOST {host} is not a host that this machine knows.") from None
    for family, _, _, _, address in addresses:
        problem = _bind_error(family, address)
        if problem == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {port} on {host} is taken by another program. Stop that program, or set MIRROR_PORT to a free"
                " port."
            )
        if problem:
            raise CannotStart(f"MIRROR_HOST {host} and MIRROR_PORT {port} cannot be used: {os.strerror(problem)}.")


def choose_port(folder: DataFolder, server: str, lowest: int) -> int:
    """Return a free port of 127.0.0.1 for *server*.

    It is the one that *server* had last, else a random one from *lowest* on.

    It is random so that two mirrors that start at the same moment choose different ones. Keep *lowest* well under
    32768. The kernel gives higher ports to outgoing connections, and a restarted server could find its port taken.
    Raises CannotStart if no port is free.
    """
    note = folder.read_note(_PORTS)
    candidates: list[int] = random.sample(range(lowest, lowest + _PORT_CANDIDATES), _PORT_CANDIDATES)
    last = note.get(server)
    if isinstance(last, int) and 0 < last <= _HIGHEST_PORT:
        candidates.insert(0, last)
    for port in candidates:
        if not _bind_error(socket.AF_INET, ("127.0.0.1", port)):
            folder.write_note(_PORTS, {**note, server: port})
            return port
    raise CannotStart(
        f"No port is free for the embedded {server} between {lowest} and {lowest + _PORT_CANDIDATES - 1}."
    )


def _bind_error(family: int, address: tuple[str | int, ...] | tuple[int, bytes]) -> int:
    """Return the errno that a server would get, or 0.

    As servers do, it may reuse an address in TIME_WAIT.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return 0


def program_version(program: Path, argument: str) -> str:
    """Run *program* with *argument* and return the version that it prints.

    Raises CannotStart if it does not run.
    """
    try:
        done = subprocess.run(
            [program, argument],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        raise CannotStart(f"The program {program} does not run on this machine.") from None
    found = re.search(r"\bv=?(\d+(?:\.\d+)+)", done.stdout)
    if not found:
        raise CannotStart(f"The program {program} does not print its version.")
    return found[1]


def require_not_older(folder: DataFolder, server: str, version: str) -> None:
    """Check that no newer *server* has opened the folder, and note *version*.

    Raises CannotStart.

    An old Redis or Valkey reads newer data as *empty*, without an error, and then overwrites it. The version is noted
    before the server starts, because the server may write its first data and crash right after that.
    """
    note = folder.read_note(_VERSIONS)
    newest = note.get(server)
    if isinstance(newest, str) and _numbers(newest) > _numbers(version):
        raise CannotStart(
            f"The data folder {folder.root} was written by {server} {newest}, and this is the older {server} {version},"
            " which could lose data. Install the newer version again, or set MIRROR_DATA_DIR to another folder."
        )
    if newest != version:
        folder.write_note(_VERSIONS, {**note, server: version})


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
