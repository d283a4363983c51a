"""How `make run` starts next to another mirror, and which starts it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.integration.deploy.launch import Launch, children, command_line, env_file, sourced
from tests.support.fakes.certificates import Authority
from tests.support.servers.process import free_port


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


def test_a_folder_that_a_newer_server_wrote_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "versions.json").write_text('{"valkey": "99.0.0"}')
    launch = Launch(tmp_path).start()
    assert launch.status() == 1
    assert "was written by valkey 99.0.0" in launch.output()
    assert (data / "versions.json").read_text() == '{"valkey": "99.0.0"}'
    assert not list((data / "valkey").iterdir())


def test_a_key_of_another_certificate_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    key = Authority(tmp_path / "other").issue("mirror.corp").key
    certificate = Authority(tmp_path).issue("mirror.corp").certificate
    launch = Launch(tmp_path, MIRROR_TLS_CERTIFICATE=str(certificate), MIRROR_TLS_KEY=str(key)).start()
    assert launch.status() == 2
    assert "MIRROR_TLS_KEY: is not the key of the first certificate" in launch.output()
    assert launch.journal("started") == []
