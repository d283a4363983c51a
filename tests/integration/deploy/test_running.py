"""`make run` with real servers, and with fakes for the product's own processes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import redis
from botocore.config import Config

from tests.integration.deploy.launch import Launch, children, command_line, eventually, interrupt, is_alive
from tests.support.fakes.certificates import Authority
from tests.support.servers.process import free_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """A running mirror in a folder with a difficult name.

    It has two workers, and its caller has AWS variables.
    """
    directory = tmp_path_factory.mktemp("running")
    elsewhere = {"AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "expired", "AWS_CA_BUNDLE": "/nowhere"}
    with Launch(directory, data=directory / "d #1 %s; x'y", MIRROR_WORKERS="2", **elsewhere) as launch:
        yield launch.ready()


def env_file(launch: Launch) -> dict[str, str]:
    """Return the file ``env`` as a shell reads it."""
    script = 'set -a; . "$1"; env -0'
    answer = subprocess.run(["sh", "-c", script, "sh", launch.data / "env"], env={}, capture_output=True, check=True)
    return dict(item.split("=", 1) for item in answer.stdout.decode().split("\0") if item)


def sourced(launch: Launch) -> dict[str, str]:
    """Return what sourcing the file ``env`` puts into the environment of a shell."""
    wanted = ("MIRROR_", "AWS_")
    return {name: value for name, value in env_file(launch).items() if name.startswith(wanted)}


def environment_of(pid: int) -> set[str]:
    """Return the names of its variables.

    (Valkey overwrites them with its process title.)
    """
    names = {item.partition(b"=")[0].decode() for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
    return {name for name in names if name.strip()}


def redis_of(launch: Launch) -> redis.Redis:
    return redis.Redis.from_url(env_file(launch)["MIRROR_REDIS_URL"], socket_timeout=5)


def valkey_answers(launch: Launch) -> bool:
    """Return whether its Valkey accepts commands."""
    with redis_of(launch) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


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


def test_a_second_start_on_the_same_folder_is_refused(running: Launch, tmp_path: Path) -> None:
    second = Launch(tmp_path, data=running.data).start()
    assert second.status() == 1
    assert f"already runs on the data folder {running.data} (process {running.process.pid})" in second.output()
    assert len(second.output().splitlines()) == 1
    assert not second.journal("started")


def test_a_second_mirror_on_the_same_machine_gets_other_ports(running: Launch, tmp_path: Path) -> None:
    with Launch(tmp_path) as second:
        second.ready()
        assert env_file(second)["MIRROR_REDIS_URL"] != env_file(running)["MIRROR_REDIS_URL"]
        assert env_file(second)["MIRROR_S3_ENDPOINT"] != env_file(running)["MIRROR_S3_ENDPOINT"]


def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        first = launch.ready().journal("started", "worker")[0]["pid"]
        valkey = next(pid for pid in children(launch.process.pid) if "valkey-server" in command_line(pid))
        os.kill(first, signal.SIGKILL)
        os.kill(valkey, signal.SIGKILL)
        eventually(lambda: len(launch.journal("started", "worker")) == 2, "no new worker", launch.output)
        eventually(lambda: valkey_answers(launch), "no new Valkey", launch.output)


@pytest.mark.parametrize("how", [lambda process: process.terminate(), interrupt], ids=["SIGTERM", "Ctrl-C"])
def test_workers_stop_before_the_api_and_the_servers_last(tmp_path: Path, how: object) -> None:
    with Launch(tmp_path) as launch:
        launch.ready()
        started = [launch.process.pid, *children(launch.process.pid)]
        assert callable(how)
        how(launch.process)
        assert launch.status() == 0
        assert not [pid for pid in started if is_alive(pid)]
        for name, still_accepting in {"worker": ["api", "s3", "redis"], "service": ["api", "s3", "redis"]}.items():
            assert [entry["accepting"] for entry in launch.journal("stopping", name)] == [still_accepting]
        order = [entry["name"] for entry in launch.journal("stopping")]
        assert set(order[:2]) == {"worker", "scheduler"}
        assert order[2:] == ["service"]


def test_a_process_that_ignores_sigterm_is_killed_and_the_rest_stops_in_order(tmp_path: Path) -> None:
    with Launch(tmp_path, FAKES="stubborn") as launch:
        launch.ready()
        eventually(lambda: launch.journal("started", "stubborn"), "it does not start", launch.output)
        launch.process.terminate()
        assert launch.status() == 0
        assert not is_alive(launch.journal("started", "stubborn")[0]["pid"])
        assert launch.journal("stopping", "service")[0]["accepting"] == ["api", "s3", "redis"]


def test_a_killed_supervisor_leaves_no_process_and_a_new_start_finds_all_data(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        started = children(launch.ready().process.pid)
        before = env_file(launch)
        with redis_of(launch) as client:
            client.set("job", "accepted")
        launch.kill()
        launch.start()  # at once, so it waits for the orphans of the killed one
        eventually(lambda: not [pid for pid in started if is_alive(pid)], "processes are left")
        eventually(lambda: len(launch.journal("started", "service")) == 2, "it does not start again", launch.output)
        eventually(lambda: valkey_answers(launch), "no Valkey", launch.output)
        with redis_of(launch) as client:
            assert client.get("job") == b"accepted"
        assert env_file(launch) == before


def test_a_killed_supervisors_programs_end_while_redis_and_s3_still_answer(tmp_path: Path) -> None:
    """Also one that ignores SIGTERM, and its forks.

    They end although no new start cleans up.
    """
    with Launch(tmp_path, FAKES="stubborn") as launch:
        launch.ready()
        eventually(lambda: launch.journal("started", "stubborn"), "it does not start", launch.output)
        started = children(launch.process.pid)
        forked = [pid for parent in started for pid in children(parent)]
        launch.kill()
        eventually(lambda: not [pid for pid in [*started, *forked] if is_alive(pid)], "processes are left")
        for name in ("worker", "scheduler", "service"):
            (entry,) = launch.journal("stopping", name)
            assert {"s3", "redis"} <= set(entry["accepting"])
        assert not launch.journal("stopping", "stubborn")


def test_processes_that_the_guard_could_not_end_are_ended_and_named_by_the_next_start(tmp_path: Path) -> None:
    with Launch(tmp_path) as launch:
        started = children(launch.ready().process.pid)
        guard = next(pid for pid in started if "deploy.local.orphans" in command_line(pid))
        valkey = next(pid for pid in started if "valkey-server" in command_line(pid))
        with redis_of(launch) as client:
            client.set("job", "accepted")
        launch.process.send_signal(signal.SIGSTOP)  # else it would start another guard
        os.kill(guard, signal.SIGKILL)
        launch.kill()
        eventually(lambda: not [pid for pid in launch.pids() if is_alive(pid)], "programs are left")
        assert is_alive(valkey)
        launch.start()
        eventually(lambda: len(launch.journal("started", "service")) == 2, "it does not start again", launch.output)
        assert not [pid for pid in started if is_alive(pid)]
        said = [line for line in launch.lines() if line["event"].startswith("Ending the processes of an earlier run")]
        assert [f"valkey-server ({valkey})" in line["event"] for line in said] == [True]
        eventually(lambda: valkey_answers(launch), "no Valkey", launch.output)
        with redis_of(launch) as client:
            assert client.get("job") == b"accepted"


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
        passed = {pid: environment_of(pid) for pid in started if pid not in launch.pids()}
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


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launch = Launch(tmp_path, MIRROR_PORT=str(port)).start()
        assert launch.status() == 1
    assert f"Port {port} on 127.0.0.1 is taken" in launch.output()
    assert len(launch.output().splitlines()) == 1
    assert not (launch.data / "env").exists()


def test_wrong_settings_are_all_listed_and_nothing_is_made(tmp_path: Path) -> None:
    launch = Launch(tmp_path, MIRROR_WORKERS="many", MIRROR_REDIS_URL="nowhere").start()
    assert launch.status() == 2
    assert "MIRROR_WORKERS" in launch.output()
    assert "MIRROR_REDIS_URL" in launch.output()
    assert not launch.data.exists()


def test_off_loopback_without_a_token_it_does_not_start(tmp_path: Path) -> None:
    launch = Launch(tmp_path, MIRROR_HOST="0.0.0.0").start()
    assert launch.status() == 2
    assert "MIRROR_ADMIN_TOKEN" in launch.output()
    assert not launch.data.exists()


def test_mistyped_and_missing_settings_are_listed_at_once_and_nothing_is_made(tmp_path: Path) -> None:
    launch = Launch(tmp_path, MIRROR_WORKER="2", MIRROR_HOST="0.0.0.0", MIRROR_LOG_LEVEL="loud").start()
    assert launch.status() == 2
    assert "MIRROR_WORKER: is not a setting; did you mean MIRROR_WORKERS?" in launch.output()
    for name in ("MIRROR_ADMIN_TOKEN", "MIRROR_PUBLIC_URL", "MIRROR_LOG_LEVEL"):
        assert f"  {name}: " in launch.output()
    assert not launch.data.exists()


def test_a_file_in_the_place_of_the_data_folder_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        launch = Launch(tmp_path, data=data).start()
        assert launch.status() == 1
    assert launch.output().count(f"{tmp_path / 'file'} is a file, not a folder. Set MIRROR_DATA_DIR") == 2
    assert len(launch.output().splitlines()) == 2
    assert (tmp_path / "file").read_text() == "precious"


def test_a_second_mirror_in_a_shell_that_sourced_the_env_file_is_refused(running: Launch, tmp_path: Path) -> None:
    second = Launch(tmp_path, data=None, **sourced(running)).start()
    assert second.status() == 1
    assert f"has sourced {running.data / 'env'}" in second.output()
    assert "MIRROR_REDIS_URL and MIRROR_S3_BUCKET name the stores of the mirror" in second.output()
    assert "MIRROR_DATA_DIR" in second.output()
    assert len(second.output().splitlines()) == 1
    assert not second.data.exists()


def test_a_second_mirror_may_share_the_stores_of_a_sourced_env_file_on_purpose(running: Launch, tmp_path: Path) -> None:
    shared = {name: value for name, value in sourced(running).items() if name != "MIRROR_STORES_OF"}
    with Launch(tmp_path, data=None, **shared) as second:
        second.ready()
        assert second.journal("started", "worker")[0]["env"]["MIRROR_REDIS_URL"] == shared["MIRROR_REDIS_URL"]


def test_the_same_mirror_starts_again_in_a_shell_that_sourced_its_own_env_file(tmp_path: Path) -> None:
    with Launch(tmp_path) as first:
        first.ready()
        variables = sourced(first)
        with redis_of(first) as client:
            client.set("job", "accepted")
    with Launch(tmp_path, data=None, **variables) as again:
        eventually(lambda: len(again.journal("started", "service")) == 2, "it does not start", again.output)
        eventually(lambda: valkey_answers(again), "no Valkey", again.output)
        with redis_of(again) as client:
            assert client.get("job") == b"accepted"
        programs = [command_line(pid) for pid in children(again.process.pid)]
        assert len([line for line in programs if "valkey-server" in line or "rclone" in line]) == 2


def test_a_folder_that_a_newer_server_wrote_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "versions.json").write_text('{"valkey": "99.0.0"}')
    launch = Launch(tmp_path).start()
    assert launch.status() == 1
    assert "was written by valkey 99.0.0" in launch.output()
    assert (data / "versions.json").read_text() == '{"valkey": "99.0.0"}'
    assert not list((data / "valkey").iterdir())


def test_with_external_stores_no_server_is_embedded(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    external: dict[str, str] = {
        "MIRROR_REDIS_URL": f"redis://{nowhere}/0",
        "MIRROR_S3_ENDPOINT": f"http://{nowhere}",
        "MIRROR_S3_BUCKET": "images",
        "AWS_PROFILE": "work",
    }
    with Launch(tmp_path, data=None, **external) as launch:
        launch.ready()
        programs = [command_line(pid) for pid in children(launch.process.pid)]
        assert not [line for line in programs if "valkey-server" in line or "rclone" in line]
        seen = launch.journal("started", "worker")[0]["env"]
        assert {name: seen[name] for name in external} == external
        assert "MIRROR_SERVE_REDIRECT" not in seen
        assert env_file(launch)["MIRROR_S3_BUCKET"] == "images"
        assert "AWS_ACCESS_KEY_ID" not in env_file(launch)


def test_with_a_certificate_everything_speaks_of_https(tmp_path: Path) -> None:
    issued = Authority(tmp_path).issue("mirror.corp")  # the readiness check asks the address, whatever the name is
    certificate, key = str(issued.certificate), str(issued.key)
    with Launch(tmp_path, MIRROR_TLS_CERTIFICATE=certificate, MIRROR_TLS_KEY=key) as launch:
        launch.ready()
        url = f"https://127.0.0.1:{launch.port}"
        assert f"Ready: {url}" in launch.output()
        (start,) = [line for line in launch.lines() if line["event"] == "Image Mirror starts"]
        assert start["url"] == env_file(launch)["MIRROR_URL"] == url


def test_a_key_of_another_certificate_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    key = Authority(tmp_path / "other").issue("mirror.corp").key
    certificate = Authority(tmp_path).issue("mirror.corp").certificate
    launch = Launch(tmp_path, MIRROR_TLS_CERTIFICATE=str(certificate), MIRROR_TLS_KEY=str(key)).start()
    assert launch.status() == 2
    assert "MIRROR_TLS_KEY: is not the key of the first certificate" in launch.output()
    assert launch.journal("started") == []
