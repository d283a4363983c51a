"""Credentials of the sync file, as workers look them up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.errors import CredentialsUnavailable
from mirror.schedules.file_credentials import FileCredentials

SECRET = "hunter2-of-the-hub"
FILE = """
version: 1
credentials:
  hub: {registry: docker.io, username: robot, password: "${HUB_TOKEN}"}
  team: {registry: harbor.corp/team, username: team, password: "${HUB_TOKEN}"}
  harbor: {registry: harbor.corp, username: all, password: "${HUB_TOKEN}"}
syncs: []
"""
Write = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.yaml"


@pytest.fixture
def write(path: Path) -> Write:
    """Writes the file, and lets it look as if that was a minute ago."""

    def write(text: str) -> None:
        path.write_text(text)
        written = path.stat().st_mtime - 60
        os.utime(path, (written, written))

    return write


@pytest.fixture
def credentials(path: Path) -> FileCredentials:
    return FileCredentials(path, {"HUB_TOKEN": SECRET})


def user(credentials: FileCredentials, registry: str, repository: str = "a/b") -> str | None:
    found = credentials.credential(registry, repository)
    return found.username if found else None


@pytest.mark.parametrize(
    ("registry", "repository", "name"),
    [
        ("docker.io", "library/redis", "robot"),
        ("harbor.corp", "team/app", "team"),
        ("harbor.corp", "teams/app", "all"),
        ("harbor.corp:8443", "team/app", None),
        ("quay.io", "team/app", None),
    ],
)
def test_the_credential_of_the_longest_name_is_found(
    credentials: FileCredentials, write: Write, registry: str, repository: str, name: str | None
) -> None:
    write(FILE)
    assert user(credentials, registry, repository) == name


def test_an_edited_file_is_read_again(credentials: FileCredentials, write: Write) -> None:
    write(FILE)
    assert user(credentials, "docker.io") == "robot"
    write(FILE.replace("robot", "other"))
    assert user(credentials, "docker.io") == "other"


def test_a_file_that_may_still_be_written_waits(credentials: FileCredentials, write: Write, path: Path) -> None:
    write(FILE)
    assert user(credentials, "docker.io") == "robot"
    path.write_text("version: 1\nsyncs: []\n")
    assert user(credentials, "docker.io") == "robot"
    write("version: 1\nsyncs: []\n")
    assert user(credentials, "docker.io") is None


@pytest.mark.parametrize("broken", ["", "version: 1\nsyncs: [", FILE.replace("HUB_TOKEN", "OTHER"), FILE + "x: 1\n"])
def test_a_broken_file_changes_nothing_and_is_logged_once(
    credentials: FileCredentials, write: Write, broken: str
) -> None:
    write(FILE)
    assert user(credentials, "docker.io") == "robot"
    write(broken)
    with capture_logs() as logs:
        assert [user(credentials, "docker.io") for _ in range(3)] == ["robot"] * 3
    [line] = logs
    assert line["log_level"] == "warning"
    assert "line" in line
    assert SECRET not in str(logs)
    write(FILE.replace("robot", "mended"))
    assert user(credentials, "docker.io") == "mended"


def test_a_file_that_vanishes_changes_nothing(credentials: FileCredentials, write: Write, path: Path) -> None:
    write(FILE)
    assert user(credentials, "docker.io") == "robot"
    path.unlink()
    assert user(credentials, "docker.io") == "robot"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "the file is missing, or cannot be read"),
        ("version: 1\nsyncs: [", "line 3, column 1: "),
        (FILE.replace("HUB_TOKEN", "OTHER"), "line 4, column 47: The variable OTHER is not set, or is empty."),
    ],
)
def test_without_any_good_version_every_lookup_is_refused(
    credentials: FileCredentials, write: Write, text: str | None, reason: str
) -> None:
    if text is not None:
        write(text)
    with pytest.raises(CredentialsUnavailable) as refused:
        credentials.credential("quay.io", "a/b")
    assert reason in refused.value.message
    assert "MIRROR_SYNC_FILE" in refused.value.hint


def test_a_pipe_is_no_file(credentials: FileCredentials, path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CredentialsUnavailable):
        credentials.credential("docker.io", "library/redis")
