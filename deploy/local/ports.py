"""Loopback ports for the embedded servers, and the API's port."""

from __future__ import annotations

import errno
import os
import random
import socket
from typing import Final

from deploy.local.data_folder import DataFolder
from deploy.local.errors import CannotStart

_NOTE: Final = "ports.json"
_TRIES: Final = 500
_HIGHEST: Final = 65535


def require_free(host: str, port: int) -> None:
    """Raises CannotStart if the API could not listen on MIRROR_HOST and MIRROR_PORT."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise CannotStart(f"MIRROR_HOST {host} is not a host that this machine knows.") from None
    for family, _, _, _, address in addresses:
        problem = _bind_problem(family, address)
        if problem == errno.EADDRINUSE:
            raise CannotStart(
                f"Port {port} on {host} is taken by another program; end that, or set MIRROR_PORT to a free port."
            )
        if problem:
            raise CannotStart(f"MIRROR_HOST {host} and MIRROR_PORT {port} cannot be used: {os.strerror(problem)}.")


def choose(folder: DataFolder, name: str, lowest: int) -> int:
    """A free port of 127.0.0.1 for the server *name*: the one it had last, else a free one from *lowest* on.

    Which one is left to chance, so that two that start at the same moment do not choose the same. Choose *lowest* well
    under 32768: from there on the kernel hands ports to outgoing connections, and a server that is started again
    could find its own port taken. Raises CannotStart if there is none.
    """
    note = folder.read_note(_NOTE)
    candidates: list[int] = random.sample(range(lowest, lowest + _TRIES), _TRIES)
    last = note.get(name)
    if isinstance(last, int) and 0 < last <= _HIGHEST:
        candidates.insert(0, last)
    for port in candidates:
        if not _bind_problem(socket.AF_INET, ("127.0.0.1", port)):
            folder.write_note(_NOTE, {**note, name: port})
            return port
    raise CannotStart(f"No port is free for the embedded {name} between {lowest} and {lowest + _TRIES - 1}.")


def _bind_problem(family: int, address: tuple[str | int, ...] | tuple[int, bytes]) -> int:
    """The errno that a server would meet, or 0. Like servers do, it may follow one whose connections linger."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return 0
