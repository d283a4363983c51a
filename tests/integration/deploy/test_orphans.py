"""Which processes belong to a data folder, and how orphans are ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local import orphans
from deploy.local.data_folder import DataFolder
from tests.integration.deploy.launch import eventually
from tests.support.servers.process import REPOSITORY

STARTS = 'echo started >>"$0"; read -r _'
NOTES_SIGTERM = 'trap \'echo "$1 ended" >>"$0"; exit 0\' TERM; echo started >>"$0"; while :; do sleep 0.05; done'
IGNORES_SIGTERM = 'trap "" TERM; echo started >>"$0"; while :; do sleep 0.05; done'


class Started:
    """Shell programs that were started with this process as their parent."""

    def __init__(self, folder: DataFolder, journal: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.journal = journal
        self._stack = stack
        self._count = 0

    def program(self, script: str, name: str, *options: str | Path) -> subprocess.Popen[bytes]:
        wrapper = [sys.executable, "-m", "deploy.local.parent_death", "--parent", str(os.getpid()), *options]
        command = [*wrapper, "--", "/bin/sh", "-c", script, self.journal, name]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE)
        self._stack.callback(process.__exit__, None, None, None)
        self._stack.callback(process.kill)
        self._count += 1
        eventually(lambda: self.notes().count("started") == self._count, f"{name} does not start")
        return process

    def child(self, script: str, name: str, lock: Path | None = None) -> subprocess.Popen[bytes]:
        own = ("--lock", lock) if lock else ()
        return self.program(script, name, "--share", self.folder.children_lock, *own)

    def notes(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(DataFolder.open(tmp_path / "data"), tmp_path / "journal", stack)


def test_a_process_belongs_to_the_folder_by_its_lock_and_not_by_the_open_file(started: Started) -> None:
    child = started.child(STARTS, "child")
    forked = started.child(f"exec 7<&0; ({STARTS} <&7) & wait", "parent of a fork")
    lock = str(started.folder.children_lock)
    onlooker = started.program(f'exec 9<"{lock}"; {STARTS}', "onlooker")
    found = orphans.lock_holders(started.folder.children_lock)
    assert {child.pid, forked.pid} < found
    assert len(found) == 3
    assert onlooker.pid not in found
    assert os.getpid() not in found
    assert f"sh ({child.pid})" in orphans.describe(found)


def test_programs_that_do_not_end_are_killed_and_valkey_is_ended_last(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "STOP_WITHIN", 0.3)
    stuck = started.child(IGNORES_SIGTERM, "stuck")
    valkey = started.child(NOTES_SIGTERM, "valkey", started.folder.valkey_lock)
    s3 = started.child(NOTES_SIGTERM, "s3", started.folder.s3_lock)
    stranger = started.program(NOTES_SIGTERM, "stranger")
    orphans.end_orphans(started.folder)
    assert (stuck.wait(), s3.wait(), valkey.wait()) == (-9, 0, 0)
    assert started.notes()[-2:] == ["s3 ended", "valkey ended"]
    assert stranger.poll() is None


def test_a_program_that_ends_by_itself_gets_no_signal(started: Started) -> None:
    """It got SIGTERM from the kernel. A second one would make a worker drop its task."""
    program = started.child(f"trap 'exit 15' TERM; {STARTS}", "program")
    assert program.stdin
    program.stdin.close()
    orphans.end_orphans(started.folder)
    assert program.wait() != 15


def test_a_server_that_does_not_end_is_killed(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "SERVER_STOPS_WITHIN", 0.2)
    server = started.child(IGNORES_SIGTERM, "server", started.folder.valkey_lock)
    orphans.end_orphans(started.folder)
    assert server.wait() == -9


def test_an_unused_folder_has_no_lock_holders(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "data")
    assert orphans.lock_holders(folder.children_lock) == set()
    assert orphans.lock_holders(tmp_path / "missing") == set()
    orphans.end_orphans(folder)
