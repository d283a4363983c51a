"""How much was asked of the source: requests and bytes, from the access log that it writes anyway."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SOURCE_LINE: Final = re.compile(rb'"[A-Z]+ \S+ HTTP/[0-9.]+" \d{3} (\d+) ')


@dataclass(frozen=True, slots=True)
class Asked:
    requests: int
    bytes: int


class AccessLog:
    """A log that grows; `position` now, and `since` a position later."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def position(self) -> int:
        return self._path.stat().st_size

    def since(self, position: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(position)
            return file.read()


def asked_of_source(log: bytes) -> Asked:
    """Of a registry's log; bytes are the bodies it sent."""
    bodies = [int(body) for body in _SOURCE_LINE.findall(log)]
    return Asked(len(bodies), sum(bodies))
