"""What the data folder remembers: secrets, ports and versions."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.local import ports, versions
from deploy.local.data_folder import DataFolder
from deploy.local.errors import CannotStart


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data")


def test_a_secret_is_generated_once(folder: DataFolder) -> None:
    secret = folder.secret("redis-password")
    assert len(secret) == 43
    assert folder.secret("redis-password") == secret
    assert folder.secret("another") != secret


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"The data folder .*/file cannot be used: "):
        DataFolder.open(tmp_path / "file")


def test_a_damaged_note_is_named_instead_of_forgotten(folder: DataFolder) -> None:
    (folder.root / "versions.json").write_text("[")
    with pytest.raises(CannotStart, match=r"versions\.json is damaged"):
        versions.admit(folder, "valkey", "9.1.2")


def test_a_port_stays_the_same_while_it_is_free(folder: DataFolder) -> None:
    first = ports.choose(folder, "valkey", 21000)
    assert ports.choose(folder, "valkey", 22000) == first
    with socket.create_server(("127.0.0.1", first)):
        assert ports.choose(folder, "valkey", 21000) != first


def test_the_ports_of_two_servers_are_remembered_side_by_side(folder: DataFolder) -> None:
    valkey, s3 = ports.choose(folder, "valkey", 21000), ports.choose(folder, "s3", 23000)
    assert folder.read_note("ports.json") == {"valkey": valkey, "s3": s3}


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(CannotStart, match=r"MIRROR_HOST 192\.0\.2\.1 and MIRROR_PORT 8080 cannot be used"):
        ports.require_free("192.0.2.1", 8080)


@pytest.mark.parametrize(("noted", "now"), [("9.1.2", "9.1.2"), ("9.1.2", "9.1.10"), ("9.9.9", "10.0.0")])
def test_the_same_or_a_newer_server_opens_the_folder_and_is_noted(folder: DataFolder, noted: str, now: str) -> None:
    versions.admit(folder, "valkey", noted)
    versions.admit(folder, "valkey", now)
    assert folder.read_note("versions.json") == {"valkey": now}


@pytest.mark.parametrize(("noted", "now"), [("9.1.10", "9.1.2"), ("10.0.0", "9.9.9"), ("9.1.2", "9.1")])
def test_an_older_server_is_refused_and_nothing_is_noted(folder: DataFolder, noted: str, now: str) -> None:
    versions.admit(folder, "valkey", noted)
    with pytest.raises(CannotStart, match=f"was written by valkey {noted}, and this is the older valkey {now}"):
        versions.admit(folder, "valkey", now)
    assert folder.read_note("versions.json") == {"valkey": noted}


def test_a_program_that_does_not_run_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="does not run on this machine"):
        versions.of_program(tmp_path / "missing", "--version")
