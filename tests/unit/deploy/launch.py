"""`make run` with stand-ins as a child process of a test: what it printed, what its processes noted, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from tests.servers.process import free_port
from tests.servers.programs import REPOSITORY
from tests.unit.deploy.stand_in import accepts, address

WITHIN: Final = 30.0
"""Seconds until something that must happen has happened."""
_POLL: Final = 0.02


class Launch:
    """One start on the data folder *data*; the context ends it and everything that it started."""

    def __init__(self, directory: Path, *, data: Path | None = None, **variables: str) -> None:
        self.data = data or directory / "data"
        self.journal_file = directory / "journal"
        self.port = int(variables.get("MIRROR_PORT", 0)) or free_port()
        self.output_file = directory / "output"
        self.variables = {"MIRROR_DATA_DIR": str(self.data), "MIRROR_PORT": str(self.port)} | variables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, stdout: int | None = None) -> Self:
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.deploy.stand_in"],
                cwd=REPOSITORY,
                env=environment() | self.variables | {"JOURNAL": str(self.journal_file)},
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
            )
        return self

    def __enter__(self) -> Self:
        return self if self._process else self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WITHIN)
        eventually(lambda: not [pid for pid in self.pids() if is_alive(pid)], "not all processes end")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process
        return self._process

    def status(self) -> int:
        """The exit status; waits for it."""
        return self.process.wait(WITHIN)

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Its output; every line of it is a JSON object."""
        return [json.loads(line) for line in self.output().splitlines()]

    def journal(self, event: str, name: str | None = None) -> list[dict[str, Any]]:
        """What the stand-ins noted about *event*, oldest first."""
        lines = self.journal_file.read_text().splitlines() if self.journal_file.exists() else []
        notes = [json.loads(line) for line in lines]
        return [note for note in notes if note["event"] == event and name in (None, note["name"])]

    def ready(self) -> Self:
        """Wait until all that it embeds and all stand-ins run."""
        eventually(lambda: "Ready: http://" in self.output(), "it does not get ready", self.output)
        for name in ("service", "worker", "scheduler"):
            eventually(partial(self.journal, "started", name), f"no {name} starts", self.output)
        for name in ("MIRROR_REDIS_URL", "MIRROR_S3_ENDPOINT"):
            if name not in self.variables:
                eventually(partial(self._accepts, name), f"nothing listens at {name}", self.output)
        return self

    def _accepts(self, name: str) -> bool:
        place = address(self.journal("started")[0]["env"][name])
        return place is not None and accepts(place)

    def pids(self) -> list[int]:
        """Every stand-in that ever started."""
        return [note["pid"] for note in self.journal("started")]

    def kill(self) -> None:
        """SIGKILL to the supervisor alone."""
        self.process.kill()
        self.process.wait()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment() -> dict[str, str]:
    """Ours, without what would change how the product starts."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MIRROR_", "AWS_", "RCLONE_"))}


def eventually(holds: Callable[[], object], otherwise: str, context: Callable[[], str] | None = None) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, otherwise + (f":\n{context()}" if context else "")
        time.sleep(_POLL)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C in its terminal: SIGINT to the whole process group in the foreground."""
    os.killpg(process.pid, signal.SIGINT)
