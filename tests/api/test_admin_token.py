from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.settings import InvalidSettings
from service.http.auth import admin_token
from tests.conftest import MakeSettings


def test_a_configured_token_is_taken_and_nothing_is_written(settings: MakeSettings, tmp_path: Path) -> None:
    assert admin_token(settings(admin_token="x" * 16)) == "x" * 16
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_made_once_and_only_its_owner_reads_it(settings: MakeSettings, tmp_path: Path) -> None:
    token = admin_token(settings())
    assert len(token) >= 43
    path = tmp_path / "data" / "admin-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin_token(settings()) == token == path.read_text().strip()
    assert [file.name for file in path.parent.iterdir()] == ["admin-token"]


def test_processes_that_start_together_agree_on_the_token(settings: MakeSettings) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: admin_token(settings()), range(64)))) == 1


def test_off_loopback_no_token_is_ever_made(settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="MIRROR_ADMIN_TOKEN"):
        admin_token(settings(host="0.0.0.0"))
    assert list(tmp_path.iterdir()) == []


def test_a_made_token_cannot_be_a_pull_token(settings: MakeSettings) -> None:
    token = admin_token(settings())
    with pytest.raises(InvalidSettings, match="MIRROR_PULL_TOKEN: has the admin token in it") as refused:
        admin_token(settings(pull_token=("token-of-cluster-1", token)))
    assert token not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 32, b"with a blank in its middle"])
def test_a_token_file_without_a_token_opens_nothing(settings: MakeSettings, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin-token").write_bytes(content)
    with pytest.raises(InvalidSettings, match="admin-token that cannot be used"):
        admin_token(settings())


def test_a_data_directory_that_is_none_is_a_setting_that_is_wrong(settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InvalidSettings, match="MIRROR_DATA_DIR"):
        admin_token(settings())
