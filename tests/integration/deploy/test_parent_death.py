"""Programs that end with their parent: arguments, locks and variables."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.deploy.launch import eventually
from tests.support.servers.process import REPOSITORY


def bound_to_parent(*arguments: str | Path, parent: int | None = None) -> list[str | Path]:
    return [sys.executable, "-m", "deploy.local.parent_death", "--parent", str(parent or os.getpid()), *arguments]


def test_it_runs_the_program_with_its_arguments() -> None:
    command = bound_to_parent("--", "/bin/echo", "--lock", "a b")
    assert subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout == b"--lock a b\n"


def test_it_does_not_start_under_another_parent() -> None:
    command = bound_to_parent("--", "/bin/echo", "started", parent=1)
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True)
    assert (answer.returncode, answer.stdout) == (1, b"")


def test_a_second_server_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen(
        bound_to_parent("--lock", lock, "--", "/bin/cat"), cwd=REPOSITORY, stdin=subprocess.PIPE
    ) as first:
        eventually(lambda: lock.exists() and not lockable(lock), "it takes no lock")
        command = bound_to_parent("--lock", lock, "--", "/bin/echo", "started")
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


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ((), {"PATH", "LC_ALL", "TOKEN", "TOKEN_FILE"}),
        (("--only=PATH", "--only=LC_*"), {"PATH", "LC_ALL"}),
        (("--without=TOKEN", "--without=LC_*"), {"PATH", "TOKEN_FILE"}),
        (("--only=TOKEN*", "--without=TOKEN"), {"TOKEN_FILE"}),
    ],
)
def test_a_program_receives_only_the_variables_that_it_may_have(options: tuple[str, ...], passed: set[str]) -> None:
    environment = {"PATH": "/bin", "LC_ALL": "C", "TOKEN": "secret", "TOKEN_FILE": "/secret"}
    command = bound_to_parent(*options, "--", "/usr/bin/env", "-0")
    answer = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=True)
    assert {item.partition(b"=")[0].decode() for item in answer.stdout.split(b"\0") if item} == passed


@pytest.mark.parametrize(("options", "goes_on"), [((), False), (("--outlive",), True)])
def test_a_program_ends_with_its_supervisor_unless_it_may_outlive_it(
    tmp_path: Path, options: tuple[str, ...], goes_on: bool
) -> None:
    lock, note = tmp_path / "lock", tmp_path / "note"
    arguments = ["-m", "deploy.local.parent_death", "--parent", "$$", *options, "--share", str(lock), "--"]
    program = f"echo started >>{note}; read -r _; echo ended >>{note}"
    wrapped = " ".join([sys.executable, *arguments, "/bin/sh", "-c", f"'{program}'"])
    with subprocess.Popen(
        ["sh", "-c", f"exec 7<&0; {wrapped} <&7 & wait"], cwd=REPOSITORY, stdin=subprocess.PIPE
    ) as supervisor:
        eventually(lambda: note.exists() and note.read_text() == "started\n", "it does not start")
        supervisor.kill()
        supervisor.wait()
        if not goes_on:
            eventually(lambda: lockable(lock), "it does not end")
        assert lockable(lock) is not goes_on
    eventually(lambda: lockable(lock), "it does not end")
    assert note.read_text() == ("started\nended\n" if goes_on else "started\n")
