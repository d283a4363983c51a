"""`make run` while it runs: its processes, secrets, data folder and output."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import boto3
from botocore.config import Config

from tests.integration.deploy.launch import Launch, children, command_line, env_file, eventually, redis_of


def environments_of(pids: Iterable[int]) -> dict[int, set[str]]:
    """Return the names of the variables of each process that has not ended.

    (Valkey overwrites them with its process title.)
    """
    found = {}
    for pid in pids:
        with suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            items = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found[pid] = {name for item in items if (name := item.partition(b"=")[0].decode()).strip()}
    return found


def test_every_process_starts_in_its_number_of_copies(running: Launch) -> None:
    eventually(lambda: len(running.journal("started")) == 4, "not all start", running.output)
    names = sorted(entry["env"]["SUPERVISOR_PROCESS_NAME"] for entry in running.journal("started"))
    assert names == ["scheduler", "service", "worker-0", "worker-1"]


def test_the_banner_says_where_everything_is_and_never_shows_the_token(running: Launch) -> None:
    token = (running.data / "admin-token").read_text().strip()
    assert f"http://127.0.0.1:{running.port}" in running.output()
    assert str(running.data / "admin-token") in running.output()
    assert token not in running.output()


def test_no_secret_is_in_any_command_line(running: Launch) -> None:
    env = env_file(running)
    secrets = [
        env["AWS_SECRET_ACCESS_KEY"],
        env["AWS_ACCESS_KEY_ID"],
        (running.data / "admin-token").read_text().strip(),
    ]
    secrets.append(env["MIRROR_REDIS_URL"].split("@")[0].rpartition(":")[2])
    pid = running.process.pid
    eventually(lambda: len(children(pid)) == 7, "it has not seven processes")  # the readiness process has ended
    assert not [line for line in map(command_line, [pid, *children(pid)]) for secret in secrets if secret in line]


def test_everything_in_the_data_folder_is_private(running: Launch) -> None:
    found = [running.data, *running.data.rglob("*")]
    assert not [path for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    assert stat.S_IMODE((running.data / "env").stat().st_mode) == 0o600
    assert stat.S_IMODE((running.data / "run" / "supervisord.conf").stat().st_mode) == 0o600


def test_other_tools_reach_redis_and_the_bucket_with_the_env_file(running: Launch) -> None:
    env = env_file(running)
    assert env["MIRROR_URL"] == f"http://127.0.0.1:{running.port}"
    with redis_of(running) as client:
        wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    s3 = boto3.session.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]).client(
        "s3", endpoint_url=env["MIRROR_S3_ENDPOINT"], region_name=env["MIRROR_S3_REGION"], config=Config(proxies={})
    )
    s3.put_object(Bucket=env["MIRROR_S3_BUCKET"], Key="a/key", Body=b"value")
    assert s3.get_object(Bucket=env["MIRROR_S3_BUCKET"], Key="a/key")["Body"].read() == b"value"
    s3.close()


def test_the_callers_aws_settings_do_not_reach_the_embedded_s3(running: Launch) -> None:
    seen = running.journal("started", "worker")[0]["env"]
    assert seen["AWS_ACCESS_KEY_ID"] == env_file(running)["AWS_ACCESS_KEY_ID"]
    assert not seen.keys() & {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"}
    assert seen["MIRROR_SERVE_REDIRECT"] == "false"


def test_each_process_is_passed_only_the_secrets_that_it_needs(tmp_path: Path) -> None:
    token, pull_token = "an-admin-token-of-some-length", "a-pull-token-of-some-length"
    key = tmp_path / "attestation-key"
    key.write_text("")
    with Launch(
        tmp_path,
        MIRROR_ADMIN_TOKEN=token,
        MIRROR_PULL_TOKEN=pull_token,
        MIRROR_ATTESTATION_KEY_FILE=str(key),
        UNRELATED="x",
    ) as launch:
        launch.ready()
        env = {name: launch.journal("started", name)[0]["env"] for name in ("service", "worker", "scheduler")}
        assert env["service"]["MIRROR_ADMIN_TOKEN"] == token
        assert env["service"]["MIRROR_PULL_TOKEN"] == pull_token
        for name in ("worker", "scheduler"):
            assert not env[name].keys() & {"MIRROR_ADMIN_TOKEN", "MIRROR_ADMIN_TOKEN_FILE", "RCLONE_AUTH_KEY"}
            assert not env[name].keys() & {"MIRROR_PULL_TOKEN", "MIRROR_PULL_TOKEN_FILE"}
            assert env[name]["MIRROR_REDIS_URL"]
            assert env[name]["UNRELATED"] == "x"
        assert [name for name in env if "MIRROR_ATTESTATION_KEY_FILE" in env[name]] == ["worker"]
        started = children(launch.process.pid)
        passed = environments_of(set(started).difference(launch.pids()))
        assert len(passed) >= 3
        s3 = next(names for pid, names in passed.items() if "rclone" in command_line(pid))
        assert "RCLONE_AUTH_KEY" in s3
        for names in passed.values():
            assert names - {"RCLONE_AUTH_KEY"} <= {"PATH", "HOME", "LANG", "TZ", "TMPDIR"} | {
                name for name in names if name.startswith(("LC_", "LANGUAGE", "PYTHON", "VIRTUAL_ENV", "LD_LIBRARY"))
            }


def test_a_token_in_a_file_is_not_passed_to_workers_either(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("an-admin-token-of-some-length")
    with Launch(tmp_path, MIRROR_ADMIN_TOKEN_FILE=str(file)) as launch:
        launch.ready()
        assert launch.journal("started", "service")[0]["env"]["MIRROR_ADMIN_TOKEN_FILE"] == str(file)
        for name in ("worker", "scheduler"):
            assert "MIRROR_ADMIN_TOKEN_FILE" not in launch.journal("started", name)[0]["env"]


def test_in_a_pipe_every_line_is_one_json_object(running: Launch) -> None:
    eventually(lambda: "worker says hello" in running.output(), "no line of the worker", running.output)
    lines = running.lines()
    assert {"launcher", "worker-0", "worker-1", "readiness"} <= {line["process"] for line in lines}
    (start,) = [line for line in lines if line["event"] == "Image Mirror starts"]
    assert (start["data_dir"], start["admin_token"]) == (str(running.data), str(running.data / "admin-token"))


def test_output_can_go_to_a_socket(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        launch = Launch(tmp_path).start(stdout=theirs.fileno())
        theirs.close()
        with launch, ours.makefile("r") as lines:
            assert any("worker says hello" in line for line in lines)


def test_it_goes_on_when_the_reader_of_its_output_has_gone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    launch = Launch(tmp_path).start(stdout=writer)
    os.close(writer)
    with launch:
        assert os.read(reader, 100)
        os.close(reader)
        eventually(lambda: launch.journal("started", "worker"), "no worker", launch.output)
        os.kill(launch.journal("started", "worker")[0]["pid"], signal.SIGKILL)
        eventually(lambda: len(launch.journal("started", "worker")) == 2, "no new worker", launch.output)
