"""What the data folder keeps, and the errors when it cannot be used."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.data_folder import CannotStart, DataFolder, write_private
from deploy.local.orphans import single_instance
from deploy.local.preflight import choose_port, program_version, require_free_port, require_not_older


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


@pytest.mark.parametrize(
    ("make", "path", "reason"),
    [
        (lambda at: at.touch(), "", "{0} is a file, not a folder"),
        (lambda at: at.touch(), "/below/that", "{0} is a file, not a folder"),
        (lambda at: (at.mkdir(), (at / "run").touch()), "", "{0}/run is a file, not a folder"),
        (lambda at: (at.mkdir(), (at / "secrets").touch()), "", "{0}/secrets is a file, not a folder"),
        (lambda at: at.symlink_to("/nowhere/at-all"), "", "{0} is a link that leads to no folder"),
        (lambda at: at.symlink_to(at), "", "{0} is a link that leads to no folder"),
        (Path.mkdir, "/" + "n" * 300, "File name too long"),
    ],
)
def test_a_file_or_link_in_the_place_of_a_folder_is_named_with_what_to_do(
    tmp_path: Path, make: Callable[[Path], object], path: str, reason: str
) -> None:
    at = tmp_path / "at"
    make(at)
    with pytest.raises(CannotStart) as refused:
        DataFolder.open(Path(f"{at}{path}"))
    assert str(refused.value).startswith(f"The data folder {at}{path} cannot be used: ")
    assert reason.format(at) in str(refused.value)
    assert str(refused.value).endswith("Set MIRROR_DATA_DIR to a folder that can be written.")


@pytest.mark.parametrize("place", ["/proc/data", "/sys/kernel/data", "/dev/null/data"])
def test_a_place_that_cannot_be_written_is_named(place: str) -> None:
    with pytest.raises(CannotStart, match=f"The data folder {place} cannot be used: "):
        DataFolder.open(Path(place))


@pytest.mark.parametrize("name", ["lock", "env", "run/children.lock"])
def test_a_folder_in_the_place_of_a_file_is_named_when_it_is_used(folder: DataFolder, name: str) -> None:
    (folder.root / name).unlink(missing_ok=True)
    (folder.root / name).mkdir()
    with (
        pytest.raises(CannotStart, match=f"{name}: Is a directory"),
        single_instance(folder, print),
        folder.explained_errors(),
    ):
        write_private(folder.root / name, "text")


@pytest.mark.parametrize("content", ["", "too-short", "with a blank in it, and long enough", "\xff" * 30])
def test_a_damaged_secret_is_named_and_never_used(folder: DataFolder, content: str) -> None:
    (folder.secrets / "redis-password").write_text(content)
    with pytest.raises(CannotStart, match="secrets/redis-password is damaged") as refused:
        folder.secret("redis-password")
    assert not content or content not in str(refused.value)


def test_a_damaged_note_is_named_and_not_ignored(folder: DataFolder) -> None:
    (folder.root / "versions.json").write_text("[")
    with pytest.raises(CannotStart, match=r"versions\.json is damaged"):
        require_not_older(folder, "valkey", "9.1.2")


def test_a_port_stays_the_same_while_it_is_free(folder: DataFolder) -> None:
    first = choose_port(folder, "valkey", 21000)
    assert choose_port(folder, "valkey", 22000) == first
    with socket.create_server(("127.0.0.1", first)):
        assert choose_port(folder, "valkey", 21000) != first


def test_the_ports_of_both_servers_are_kept(folder: DataFolder) -> None:
    valkey, s3 = choose_port(folder, "valkey", 21000), choose_port(folder, "s3", 23000)
    assert folder.read_note("ports.json") == {"valkey": valkey, "s3": s3}


def test_a_host_of_another_machine_is_named() -> None:
    with pytest.raises(CannotStart, match=r"MIRROR_HOST 192\.0\.2\.1 and MIRROR_PORT 8080 cannot be used"):
        require_free_port("192.0.2.1", 8080)


@pytest.mark.parametrize(("noted", "now"), [("9.1.2", "9.1.2"), ("9.1.2", "9.1.10"), ("9.9.9", "10.0.0")])
def test_the_same_or_a_newer_server_opens_the_folder_and_is_noted(folder: DataFolder, noted: str, now: str) -> None:
    require_not_older(folder, "valkey", noted)
    require_not_older(folder, "valkey", now)
    assert folder.read_note("versions.json") == {"valkey": now}


@pytest.mark.parametrize(("noted", "now"), [("9.1.10", "9.1.2"), ("10.0.0", "9.9.9"), ("9.1.2", "9.1")])
def test_an_older_server_is_refused_and_nothing_is_noted(folder: DataFolder, noted: str, now: str) -> None:
    require_not_older(folder, "valkey", noted)
    with pytest.raises(CannotStart, match=f"was written by valkey {noted}, and this is the older valkey {now}"):
        require_not_older(folder, "valkey", now)
    assert folder.read_note("versions.json") == {"valkey": noted}


def test_a_program_that_does_not_run_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="does not run on this machine"):
        program_version(tmp_path / "missing", "--version")
