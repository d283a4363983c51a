"""Slow clients, over real sockets to a real process: their memory is bounded, and others are served."""

from __future__ import annotations

import http.client
import json
import re
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.oci import media_types
from mirror.oci.digest import Digest
from service.http.connections import LARGEST_HEAD
from tests.api.live_service import WITHIN, LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.api.slow_clients import Crowd, crowds, is_dropped, read_slowly
from tests.api.test_live import LARGE, copy_to
from tests.support.servers import EmbeddedS3, RcloneS3, ValkeyServer

SECONDS = 2
"""Every deadline of the `impatient` service."""
MIB = 2**20


@pytest.fixture(autouse=True)
def many_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class ImpatientService(LiveService):
    """The service with deadlines that a test can wait for."""

    def command(self) -> list[str]:
        program = (
            "from gevent import monkey; monkey.patch_all()\n"
            "from service import server\n"
            "from service.http import connections\n"
            f"connections.BODY_SECONDS = connections.STALLED_SECONDS = server.HEAD_SECONDS = {SECONDS}\n"
            f"connections.STALL_SECONDS = {SECONDS / 4}\n"
            "from service.__main__ import main; main()"
        )
        return [sys.executable, "-c", program]


@pytest.fixture(scope="module")
def shared_impatient(
    valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveService]:
    with ImpatientService(tmp_path_factory.mktemp("impatient"), valkey, rclone_s3, "live") as service:
        yield service


@pytest.fixture
def impatient(shared_impatient: LiveService) -> LiveService:
    """A service with short deadlines, which all tests share."""
    shared_impatient.begin_test()
    return shared_impatient


def ask(service: LiveService, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request over a connection of its own, that must be answered."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WITHIN)
    connection.request(method, path, body, dict(service.headers))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def resident(service: LiveService) -> int:
    """Bytes of the service's processes that answer requests."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in children)
    return pages * resource.getpagesize()


def until(holds: Callable[[], bool], *, within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_thousand_slow_clients_of_each_kind_stop_nobody(valkey: ValkeyServer, redis_url: str, tmp_path: Path) -> None:
    for name in ("s3", "service"):
        (tmp_path / name).mkdir()
    with EmbeddedS3(tmp_path / "s3") as s3, LiveService(tmp_path / "service", valkey, s3, "live") as service:
        path = f"/v2/live/broken/blobs/{copy_to(s3, LARGE)}"
        before = resident(service)
        readers = Crowd("reading", service.port, 1000, (path,))
        others = [
            Crowd("sending a head", service.port, 1000),
            Crowd("sending a body", service.port, 1000, token=service.token),
            Crowd("idle", service.port, 500),
            Crowd("silent", service.port, 500),
        ]
        with crowds(readers, *others):
            for _ in range(10):
                assert ask(service, "GET", "/livez")[0] == 200
            assert ask(service, "POST", "/v1/jobs", b'{"source": "docker.io/library/alpine:3.20"}')[0] == 202
            assert ask(service, "GET", "/v1/jobs")[0] == 200
            status, content = ask(service, "GET", path)
            assert (status, Digest.of(content)) == (200, Digest.of(LARGE))
            assert readers.alive == 1000
            assert resident(service) - before < 512 * MIB


def test_a_thousand_slow_readers_of_large_manifests_stop_nobody(
    valkey: ValkeyServer, redis_url: str, tmp_path: Path
) -> None:
    """The cache has no room for all manifests, of almost 4 MiB each. A copy for each reader would take 4 GiB."""
    for name in ("s3", "service"):
        (tmp_path / name).mkdir()
    with EmbeddedS3(tmp_path / "s3") as s3, LiveService(tmp_path / "service", valkey, s3, "live") as service:
        digests = [put_large_manifest(s3, number) for number in range(12)]
        paths = [f"/v2/live/large/manifests/{digest}" for digest in digests]
        assert ask(service, "GET", paths[0])[0] == 200
        before = resident(service)
        with Crowd("reading", service.port, 1000, tuple(paths)) as readers:
            for _ in range(10):
                assert ask(service, "GET", "/livez")[0] == 200
            assert ask(service, "GET", "/v1/jobs")[0] == 200
            status, content = ask(service, "GET", paths[-1])
            assert (status, Digest.of(content)) == (200, digests[-1])
            until(lambda: readers.served == 1000, within=60)
            assert readers.alive == 1000
            assert resident(service) - before < 512 * MIB


def put_large_manifest(s3: EmbeddedS3, number: int) -> Digest:
    """Put an index with a large annotation into the bucket, without the mirror's code."""
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}
    body = json.dumps({**document, "annotations": {"padding": f"{number:08}" * (480 * 1024)}}).encode()
    digest, client = Digest.of(body), s3.client()
    root = "live/docker/registry/v2"
    link = f"{root}/repositories/live/large/_manifests/revisions/sha256/{digest.hex}/link"
    client.put_object(Bucket=s3.bucket, Key=f"{root}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data", Body=body)
    client.put_object(Bucket=s3.bucket, Key=link, Body=str(digest).encode())
    client.close()
    return digest


def test_a_pull_that_stalls_gives_its_connection_to_s3_back_and_still_comes_whole(
    live: LiveService, live_mirror: SeededCatalog, rclone_s3: RcloneS3
) -> None:
    """A client that was quick at first. The rest is read over another connection, when it goes on."""
    path = f"/v2/live/stall/blobs/{live_mirror.link_blob('live/stall', LARGE)}"
    with live.connect_plain(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        received = answer.read(8 * MIB)
        streaming = connections_to(rclone_s3.port)
        until(lambda: connections_to(rclone_s3.port) < streaming)
        assert Digest.of(received + answer.read()) == Digest.of(LARGE)


def connections_to(port: int) -> int:
    """Established TCP connections of this machine whose far end is *port* (proc(5), /proc/net/tcp)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[3] == "01" and int(row[2].rpartition(":")[2], 16) == port for row in rows)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["nothing", "half a head", "one byte", "a whole request and then nothing"],
)
def test_a_head_has_a_deadline_however_it_is_sent(impatient: LiveService, beginning: bytes) -> None:
    """Also when a byte comes now and then."""
    with impatient.connect_plain(beginning) as client:
        is_sending = beginning and not beginning.endswith(b"\r\n\r\n")
        assert is_dropped(client, b"x" if is_sending else b"")


@pytest.mark.parametrize("framing", [b"Content-Length: 60000", b"Transfer-Encoding: chunked"])
def test_a_body_has_a_deadline(impatient: LiveService, framing: bytes) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + impatient.token.encode()
    with impatient.connect_plain(head + b"\r\n" + framing + b"\r\n\r\n") as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert (answer.status, answer.headers["Connection"]) == (408, "close")
        assert b"REQUEST_TIMEOUT" in answer.read()
        assert client.recv(1) == b""


def test_a_client_that_takes_nothing_is_dropped(impatient: LiveService, live_mirror: SeededCatalog) -> None:
    path = f"/v2/live/none/blobs/{live_mirror.link_blob('live/none', LARGE)}"
    with impatient.connect_plain(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), window=4096):
        line = impatient.logged(path=path)
    assert 0 < line["bytes"] < len(LARGE)
    assert not [line for line in impatient.lines() if line["level"] in ("warning", "error")]


def test_a_client_that_takes_a_little_at_a_time_is_not(impatient: LiveService, live_mirror: SeededCatalog) -> None:
    """Three times as long as a client may take nothing."""
    content = LARGE[: 8 * MIB]
    path = f"/v2/live/little/blobs/{live_mirror.link_blob('live/little', content)}"
    with impatient.connect_plain(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), window=4096) as client:
        assert read_slowly(client, 3 * SECONDS) == content


@pytest.mark.parametrize(
    "filling", [b"X-A: " + b"a" * 8000 + b"\r\n", b"X: y\r\n" * 1000], ids=["large headers", "many headers"]
)
def test_a_head_is_bounded_as_a_whole(live: LiveService, filling: bytes) -> None:
    """A thousand connections that hold one each must fit into memory."""
    with live.connect_plain(b"GET /livez HTTP/1.1\r\nHost: x\r\n") as client:
        try:
            for _ in range(2 * LARGEST_HEAD // len(filling)):
                client.sendall(filling)
        except (ConnectionResetError, BrokenPipeError):
            return
        assert client.recv(100).startswith(b"HTTP/1.1 431")


def test_a_body_that_nobody_reads_does_not_become_the_next_request(live: LiveService) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    refused = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner
    with live.connect_plain(refused + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as client:
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"401", b"200"]
    assert "/smuggled" not in live.log.read_text()


def test_a_large_body_that_nobody_reads_ends_the_connection(live: LiveService) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n"
    with live.connect_plain(head + b"x" * 1000) as client:
        assert client.recv(1024).startswith(b"HTTP/1.1 401")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(b"x" * 10_000_000)


def test_an_s3_that_never_answers_stops_neither_livez_nor_the_api(
    valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as hanging:
        endpoint = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with LiveService(tmp_path, valkey, rclone_s3, "live", MIRROR_S3_ENDPOINT=endpoint) as service:
            pull = f"GET /v2/live/hangs/blobs/sha256:{'0' * 64} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            waiting = [service.connect_plain(pull) for _ in range(200)]
            for _ in range(5):
                assert ask(service, "GET", "/livez")[0] == 200
                assert ask(service, "GET", "/v1/jobs")[0] == 200
            for client in waiting:
                client.close()


def test_the_service_opens_as_many_files_as_it_may(live: LiveService) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    [line] = [one for one in Path(f"/proc/{live.pid}/limits").read_text().splitlines() if "open files" in one]
    assert int(line.split()[3]) == min(hard, 65_536)
