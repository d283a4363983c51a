"""`make run` with fake processes, as a child process of a test."""

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

import redis

from tests.integration.deploy.fake_processes import accepts, address
from tests.support.servers.process import REPOSITORY, free_port

WITHIN: Final = 30.0
"""Seconds within which an expected event must happen."""
_POLL: Final = 0.02


class Launch:
    """One start on the data folder *data*.

    The context ends it and every process that it started.
    """

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
                [sys.executable, "-m", "tests.integration.deploy.fake_processes"],
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
        """Wait for the end, and return the exit status."""
        return self.process.wait(WITHIN)

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """Return the output, of which every line is a JSON object."""
        return [json.loads(line) for line in self.output().splitlines()]

    def journal(self, event: str, name: str | None = None) -> list[dict[str, Any]]:
        """Return the *event* lines that the fakes wrote, oldest first."""
        lines = self.journal_file.read_text().splitlines() if self.journal_file.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if entry["event"] == event and name in (None, entry["name"])]

    def ready(self) -> Self:
        """Wait until the embedded servers and all fakes run."""
        eventually(lambda: "Ready: http" in self.output(), "it does not get ready", self.output)
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
        """Return the ids of all fakes that ever started."""
        return [entry["pid"] for entry in self.journal("started")]

    def kill(self) -> None:
        """Send SIGKILL to the supervisor alone."""
        self.process.kill()
        self.process.wait()


def env_file(launch: Launch) -> dict[str, str]:
    """Return the file ``env`` as a shell reads it."""
    script = 'set -a; . "$1"; env -0'
    answer = subprocess.run(["sh", "-c", script, "sh", launch.data / "env"], env={}, capture_output=True, check=True)
    return dict(item.split("=", 1) for item in answer.stdout.decode().split("\0") if item)


def sourced(launch: Launch) -> dict[str, str]:
    """Return what sourcing the file ``env`` puts into the environment of a shell."""
    wanted = ("MIRROR_", "AWS_")
    return {name: value for name, value in env_file(launch).items() if name.startswith(wanted)}


def redis_of(launch: Launch) -> redis.Redis:
    return redis.Redis.from_url(env_file(launch)["MIRROR_REDIS_URL"], socket_timeout=5)


def valkey_answers(launch: Launch) -> bool:
    """Return whether its Valkey accepts commands."""
    with redis_of(launch) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def command_line(pid: int) -> str:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (ProcessLookupError, FileNotFoundError):
        return ""


def is_alive(pid: int) -> bool:
    """Return whether the process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment() -> dict[str, str]:
    """Return this environment without variables that change how the product starts."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MIRROR_", "AWS_", "RCLONE_"))}


def eventually(holds: Callable[[], object], otherwise: str, context: Callable[[], str] | None = None) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, otherwise + (f":\n{context()}" if context else "")
        time.sleep(_POLL)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C in its terminal: send SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)
