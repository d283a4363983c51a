"""The servers of the tests restart with their data, and end with the test."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis
import urllib3

from tests.support.servers import DockerRegistry, ServerDidNotStart, ValkeyServer, program


def test_an_acknowledged_write_survives_a_kill(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path, append_only=True) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.kill()
        server.restart()
        assert client.get("key") == b"value"


def test_a_stopped_server_listens_no_more(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path) as server:
        port = server.port
    assert not server.is_running
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_recognises_that_another_one_has_its_port(tmp_path: Path) -> None:
    """A server must not take the responses of another one on its port for its own."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with DockerRegistry(tmp_path / "one") as one:
        other = DockerRegistry(tmp_path / "other")
        other.port = one.port
        assert one.answers()
        assert not other.answers()


def test_a_program_that_cannot_run_is_reported_with_its_log(tmp_path: Path) -> None:
    class Broken(ValkeyServer):
        def command(self) -> list[str]:
            return [*super().command(), "--no-such-option", "1"]

    with pytest.raises(ServerDidNotStart, match="no-such-option"):
        Broken(tmp_path).start()


@pytest.mark.docker_registry
def test_the_registry_lists_every_request_in_order(docker_registry: DockerRegistry) -> None:
    before = len(docker_registry.requests())
    urllib3.request("GET", f"{docker_registry.url}/v2/missing/image/tags/list?n=1")
    urllib3.request("HEAD", f"{docker_registry.url}/v2/missing/image/manifests/7")
    assert docker_registry.requests()[before:] == [
        ("GET", "/v2/missing/image/tags/list?n=1"),
        ("HEAD", "/v2/missing/image/manifests/7"),
    ]


def test_a_missing_program_fails_under_ci_and_is_named_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="'no-such-program' IS MISSING"):
        program("no-such-program")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="'no-such-program' IS MISSING"):
        program("no-such-program")
