"""A program that is tied to its parent."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from tests.servers.programs import REPOSITORY
from tests.unit.deploy.launch import eventually


def tethered(*arguments: str | Path, parent: int | None = None) -> list[str | Path]:
    return [sys.executable, "-m", "deploy.local.tether", "--parent", str(parent or os.getpid()), *arguments]


def test_it_becomes_the_program_and_passes_its_arguments() -> None:
    command = tethered("--", "/bin/echo", "--lock", "a b")
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout == b"--lock a b\n"


def test_it_does_not_start_under_another_parent() -> None:
    command = tethered("--", "/bin/echo", "started", parent=1)
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True)
    assert (answer.returncode, answer.stdout) == (1, b"")


def test_a_second_server_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(tethered("--lock", lock, "--", "/bin/cat"), cwd=REPOSITORY, stdin=subprocess.PIPE) as first:
        eventually(lambda: lock.exists() and not lockable(lock), "it takes no lock")
        command = tethered("--lock", lock, "--", "/bin/echo", "started")
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as second:
            eventually(lambda: waits_for_a_lock(second.pid), "it does not wait")
            first.kill()
            assert second.communicate()[0] == b"started\n"


def lockable(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def waits_for_a_lock(pid: int) -> bool:
    return any(f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines() if "->" in line)
