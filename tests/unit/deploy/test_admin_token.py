"""The admin token: given, or generated once."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.settings import InvalidSettings, Settings
from service.admin_token import admin_token


def test_it_is_generated_once_and_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    token = admin_token(settings)
    path = tmp_path / "data" / "admin-token"
    assert path.read_text() == token + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert admin_token(settings) == token
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_start_at_once_agree_on_one(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(admin_token, [settings] * 64))) == 1


def test_a_given_one_is_taken_and_nothing_is_written(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", admin_token="a" * 16)
    assert admin_token(settings) == "a" * 16
    assert not (tmp_path / "data").exists()


def test_off_loopback_none_is_generated_or_read(tmp_path: Path) -> None:
    admin_token(Settings(data_dir=tmp_path))
    with pytest.raises(InvalidSettings, match="MIRROR_ADMIN_TOKEN"):
        admin_token(Settings(data_dir=tmp_path, host="0.0.0.0", public_url="https://mirror.example"))
