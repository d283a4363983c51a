"""supervisord's configuration follows from the process table."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import ServerOptions, UnhosedConfigParser

from deploy.local.data_folder import DataFolder
from deploy.local.processes import Process, Stage, product
from deploy.local.supervisord import _command_line, write_configuration
from mirror.settings import Settings

PRINTABLE = st.text(st.sampled_from(" #;%'\"\\\u3000\xa0a=[") | st.characters(exclude_categories=["C", "Zl", "Zp"]))


@given(st.lists(PRINTABLE, min_size=1))
def test_supervisord_reads_exactly_the_command_that_was_written(command: list[str]) -> None:
    parser = UnhosedConfigParser()
    parser.read_string(f"[program:any]\ncommand={_command_line(command)}\nother=1\n")
    assert shlex.split(parser.saneget("program:any", "command")) == command


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "data % # ; x")


def read(path: Path) -> ServerOptions:
    """Return the configuration as supervisord itself reads it."""
    options = ServerOptions()
    options.realize(["--configuration", str(path)], doc="")
    return options


def test_the_stages_stop_one_after_the_other_and_redis_is_last(folder: DataFolder, tmp_path: Path) -> None:
    servers = [
        Process(name, ("/bin/true",), stage, stop_within=1)
        for name, stage in [("s3", Stage.S3), ("valkey", Stage.REDIS)]
    ]
    options = read(write_configuration(folder, [*product(Settings(data_dir=tmp_path)), *servers]))
    groups = sorted(options.process_group_configs, key=lambda group: group.priority, reverse=True)
    assert [sorted(process.name for process in group.process_configs) for group in groups] == [
        ["readiness", "scheduler", "worker"],
        ["service"],
        ["s3"],
        ["valkey"],
    ]


def test_all_is_stopped_within_ten_seconds(folder: DataFolder, tmp_path: Path) -> None:
    """The slowest of each stage has 5 s (worker), 2 s (API) or 1 s (server)."""
    options = read(write_configuration(folder, product(Settings(data_dir=tmp_path))))
    waits = {p.name: p.stopwaitsecs for group in options.process_group_configs for p in group.process_configs}
    assert (waits["worker"], waits["scheduler"], waits["service"]) == (5, 5, 2)


def test_every_process_is_bound_to_its_parent_and_the_configuration_is_private(folder: DataFolder) -> None:
    server = Process("valkey", ("/bin/sleep", "1 %"), Stage.REDIS, stop_within=1, lock=folder.valkey / "lock")
    path = write_configuration(folder, [server])
    (process,) = read(path).process_group_configs[0].process_configs
    command = shlex.split(process.command)
    assert command[:4] == [sys.executable, "-m", "deploy.local.parent_death", "--parent"]
    assert command[5:] == [
        *("--share", str(folder.children_lock)),
        *("--lock", str(folder.valkey / "lock")),
        *("--", "/bin/sleep", "1 %"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_supervisor_has_no_control_socket(folder: DataFolder, tmp_path: Path) -> None:
    assert read(write_configuration(folder, product(Settings(data_dir=tmp_path)))).server_configs == []
