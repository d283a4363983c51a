"""The loader of Lua scripts, without a Redis."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mirror.redis import keys
from mirror.redis.scripts import load_script

LUA = "luascripts"
"""A package that exists for one test."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / LUA
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, LUA, raising=False)
    return folder


def test_a_script_without_keys_and_constants_is_its_own_text(package: Path) -> None:
    (package / "one.lua").write_text("return 1\n")
    assert load_script(LUA, "one.lua") == "-- luascripts/one.lua\nreturn 1\n"


def test_constants_are_rendered_as_lua_values(package: Path) -> None:
    (package / "one.lua").write_text("return SECONDS\n")
    constants: dict[str, int | float | str] = {"SECONDS": 15, "RATIO": 0.25, "TEXT": "it's a \\ and\na line"}
    assert load_script(LUA, "one.lua", constants=constants).splitlines()[:3] == [
        "local SECONDS = 15",
        "local RATIO = 0.25",
        r"local TEXT = 'it\'s a \\ and\na line'",
    ]


@pytest.mark.parametrize("name", ["seconds", "A B", "", "1ST", "END end"])
def test_a_constant_has_a_name_in_capitals(package: Path, name: str) -> None:
    (package / "one.lua").write_text("return 1\n")
    with pytest.raises(ValueError, match="is no name for a constant"):
        load_script(LUA, "one.lua", constants={name: 1})


def test_a_script_gets_the_keys_it_uses_and_no_others(package: Path) -> None:
    (package / "one.lua").write_text("return {KEY.job_tasks(ARGV[1]), KEY.job(ARGV[1]), KEY.jobs, KEY.jobs}\n")
    assert load_script(LUA, "one.lua").splitlines()[0] == (
        "local KEY = {job = function(id) return 'mirror:job:' .. id end, "
        "job_tasks = function(id) return 'mirror:job:' .. id .. ':tasks' end, jobs = 'mirror:jobs'}"
    )


def test_a_key_that_does_not_exist_is_found_when_the_script_is_loaded(package: Path) -> None:
    (package / "one.lua").write_text("return KEY.jobbs\n")
    with pytest.raises(LookupError, match=r"KEY\.jobbs"):
        load_script(LUA, "one.lua")


def test_an_include_file_is_inserted_once_however_often_it_is_included(package: Path) -> None:
    (package / "base.lua").write_text("local function base() return 1 end\n")
    (package / "more.lua").write_text("-- @include luascripts/base.lua\nlocal function more() return base() end\n")
    (package / "one.lua").write_text(
        "-- @include luascripts/base.lua\n-- @include luascripts/more.lua\nreturn more() + base()\n"
    )
    text = load_script(LUA, "one.lua")
    assert text.count("local function base()") == 1
    assert text.index("function base()") < text.index("function more()") < text.index("return more() + base()")
    assert "@include" not in text


def test_an_include_file_may_use_keys_and_the_script_s_constants(package: Path) -> None:
    (package / "base.lua").write_text("local function base() return KEY.jobs .. LIMIT end\n")
    (package / "one.lua").write_text("-- @include luascripts/base.lua\nreturn base()\n")
    text = load_script(LUA, "one.lua", constants={"LIMIT": 5})
    assert text.startswith("local LIMIT = 5\nlocal KEY = {jobs = 'mirror:jobs'}\n")


def test_a_file_that_does_not_exist_is_an_error(package: Path) -> None:
    (package / "one.lua").write_text("-- @include luascripts/none.lua\n")
    for file in ("one.lua", "none.lua"):
        with pytest.raises(FileNotFoundError):
            load_script(LUA, file)


def test_every_key_for_lua_is_ours_and_has_at_most_one_id() -> None:
    for template in keys.LUA.values():
        assert template.startswith("mirror:")
        assert template.count("*") <= 1
