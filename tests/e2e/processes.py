"""Processes of the product as children of a test, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

from tests.support.servers.process import killed_with_parent

T = TypeVar("T")
ROOT: Final = Path(__file__).resolve().parents[2]
_POLL: Final = 0.05


class Process:
    """``python -m MODULE`` with its own environment, during the block.

    Its output is in `log`.

    It may be started again after it has ended.
    """

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self.module = module
        self.log = log
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                [*killed_with_parent(), sys.executable, "-m", self.module],
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill it with SIGKILL if it still runs, and wait for its end."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def kill_with_children(self) -> None:
        """Kill a worker, and wait for the end of its work horse too, which dies with it and sends no more requests."""
        children = self.children()
        assert children
        self.kill()
        eventually(lambda: not any(is_alive(pid) for pid in children), what="the children die with their parent")

    @property
    def child(self) -> subprocess.Popen[bytes]:
        assert self._child is not None
        return self._child

    def children(self) -> list[int]:
        """Return the ids of its children, such as a worker's work horse.

        There are none after it has ended.
        """
        path = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        try:
            return [int(pid) for pid in path.read_text().split()]
        except FileNotFoundError:
            return []

    def terminate(self, *, within: float) -> int:
        """Send SIGTERM and return the exit status.

        Fails the test if it has not ended in time.
        """
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(within)


def eventually(ask: Callable[[], T | None], *, within: float = 30.0, every: float = _POLL, what: str) -> T:
    """Call *ask* until its result is true, and return that.

    Fails the test if that does not happen in time.
    """
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {within:.0f} s: {what}")


def is_alive(pid: int) -> bool:
    """Return whether the process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
