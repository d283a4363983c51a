"""The running service, over real sockets: what a test client in the same process cannot show."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3

from mirror.oci.digest import Digest
from mirror.records.schedule_schema import read_definition
from tests.api.drift_plans import COPY, FAILED, NIGHTLY, UNCHANGED, end_plan
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images
from tests.support.servers import RcloneS3, ValkeyServer, program
from tests.support.servers.process import ended_within

DRIFT_PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "check-drift-in-ci.md"
LARGE = bytes(range(256)) * (64 * 4096)
"""64 MiB: more than all socket buffers on the way hold."""


@pytest.fixture
def http_client() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(retries=False, timeout=20) as pool:
        yield pool


def begin_slow_download(live: LiveService, path: str) -> socket.socket:
    """A client that has read the first kilobyte and no more."""
    client = socket.create_connection(("127.0.0.1", live.port), timeout=20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert client.recv(1024).startswith(b"HTTP/1.1 200")
    return client


def test_a_blob_is_streamed_whole_and_in_parts(
    live: LiveService, live_mirror: SeededCatalog, http_client: urllib3.PoolManager
) -> None:
    path = f"{live.url}/v2/live/stream/blobs/{live_mirror.link_blob('live/stream', LARGE)}"
    whole = http_client.request("GET", path)
    assert (whole.status, Digest.of(whole.data)) == (200, Digest.of(LARGE))
    part = http_client.request("GET", path, headers={"Range": "bytes=1048570-2097160"})
    assert (part.status, part.data) == (206, LARGE[1048570:2097161])


def test_a_range_header_that_is_given_twice_is_no_range(live: LiveService, live_mirror: SeededCatalog) -> None:
    digest = live_mirror.link_blob("live/range", b"0123456789")
    part, same = ("Range", "bytes=0-1"), ("If-Range", f'"{digest}"')
    for headers, status in (([part, same], 206), ([part, part], 416), ([part, same, same], 200)):
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
        connection.putrequest("GET", f"/v2/live/range/blobs/{digest}")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == status, headers
        connection.close()


def test_the_log_has_one_json_line_per_request_without_its_query(
    live: LiveService, http_client: urllib3.PoolManager
) -> None:
    headers = {**live.headers, "X-Request-Id": "logged-once"}
    http_client.request("GET", f"{live.url}/v1/jobs?limit=3&source=query-secret", headers=headers)
    line = live.logged(request_id="logged-once")
    assert (line["method"], line["path"], line["status"], line["level"]) == ("GET", "/v1/jobs", 200, "info")
    assert line["bytes"] > 0
    assert line["seconds"] >= 0
    assert sum(one.get("request_id") == "logged-once" for one in live.lines()) == 1
    log = live.log.read_text()
    assert "query-secret" not in log
    assert live.token not in log


@pytest.mark.parametrize(
    "request_head",
    [b"GARBAGE secret-line\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nAuth orization: secret-line\r\n\r\n"],
)
def test_what_is_no_http_is_refused_and_not_logged(live: LiveService, request_head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as client:
        client.sendall(request_head)
        assert client.recv(1024).startswith(b"HTTP/1.1 400")
    assert "secret-line" not in live.log.read_text()


@pytest.mark.parametrize("path", ["//v1/jobs", "/v1//jobs", "/v1/../v1/jobs", "/v1/./jobs", "/%2e%2e/v1/jobs"])
def test_no_spelling_of_a_path_goes_round_the_token(live: LiveService, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
    connection.request("GET", path)
    assert connection.getresponse().status in (401, 404)
    connection.close()


def test_a_client_that_goes_away_ends_the_stream(live: LiveService, live_mirror: SeededCatalog) -> None:
    digest = live_mirror.link_blob("live/gone", LARGE)
    begin_slow_download(live, f"/v2/live/gone/blobs/{digest}").close()
    line = live.logged(path=f"/v2/live/gone/blobs/{digest}")
    assert 0 < line["bytes"] < len(LARGE)


def test_a_stream_that_s3_breaks_off_does_not_look_complete(
    valkey: ValkeyServer, live_mirror: SeededCatalog, tmp_path: Path
) -> None:
    """A service over an S3 of its own, which is killed while a client reads."""
    (tmp_path / "s3").mkdir()
    (tmp_path / "service").mkdir()
    with RcloneS3(tmp_path / "s3") as s3, LiveService(tmp_path / "service", valkey, s3, "live") as service:
        digest = copy_to(s3, LARGE)
        with begin_slow_download(service, f"/v2/live/broken/blobs/{digest}") as client:
            s3.kill()
            received = 1024
            while chunk := receive(client):
                received += len(chunk)
        assert received < len(LARGE)
        broken = service.logged(event="Error handling request")
        assert broken["request_id"] == service.logged(status=200, path=f"/v2/live/broken/blobs/{digest}")["request_id"]


def test_no_line_has_the_id_of_a_request_that_is_over(live: LiveService) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=20) as client:
        for name in (b"first-of-two", b"second-of-two"):
            client.sendall(head % name)
            assert live.logged(request_id=name.decode())["path"] == "/livez"
        before = len(live.lines())
        client.sendall(b"GARBAGE\r\n\r\n")
        while client.recv(4096):
            pass
    refused = [line for line in live.lines()[before:] if line["event"].startswith("Invalid request")]
    assert [line.get("request_id") for line in refused] == [None]


def copy_to(s3: RcloneS3, content: bytes) -> Digest:
    """Put a linked blob into the bucket, without the mirror's code."""
    digest, client = Digest.of(content), s3.client()
    root = "live/docker/registry/v2"
    link = f"{root}/repositories/live/broken/_layers/sha256/{digest.hex}/link"
    client.put_object(Bucket=s3.bucket, Key=f"{root}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data", Body=content)
    client.put_object(Bucket=s3.bucket, Key=link, Body=str(digest).encode())
    client.close()
    return digest


def receive(client: socket.socket) -> bytes:
    try:
        return client.recv(2**20)
    except ConnectionResetError:
        return b""


def test_sigterm_ends_the_service_while_blobs_are_streaming(
    valkey: ValkeyServer, rclone_s3: RcloneS3, live_mirror: SeededCatalog, tmp_path: Path
) -> None:
    digest = live_mirror.link_blob("live/term", LARGE)
    with LiveService(tmp_path, valkey, rclone_s3, "live") as service:
        with begin_slow_download(service, f"/v2/live/term/blobs/{digest}"):
            process = service._process
            assert process
            process.send_signal(signal.SIGTERM)
            assert ended_within(process, 10)
        assert process.returncode == 0


def test_blobs_are_read_from_s3_itself_where_it_can_be_reached(
    valkey: ValkeyServer,
    rclone_s3: RcloneS3,
    live_mirror: SeededCatalog,
    tmp_path: Path,
    http_client: urllib3.PoolManager,
) -> None:
    digest = live_mirror.link_blob("live/redirect", b"redirected")
    public = rclone_s3.url.replace("127.0.0.1", "localhost")
    settings = {"MIRROR_SERVE_REDIRECT": "true", "MIRROR_S3_PUBLIC_ENDPOINT": public}
    with LiveService(tmp_path, valkey, rclone_s3, "live", **settings) as service:
        answer = http_client.request("GET", f"{service.url}/v2/live/redirect/blobs/{digest}", redirect=False)
        assert answer.status == 307
        assert answer.headers["Location"].startswith(f"{public}/")
        assert http_client.request("GET", answer.headers["Location"]).data == b"redirected"
        assert not [line for line in service.lines() if "streamed" in line["event"]]


def test_blobs_are_streamed_and_a_warning_is_logged_where_s3_would_see_the_tokens(
    valkey: ValkeyServer,
    rclone_s3: RcloneS3,
    live_mirror: SeededCatalog,
    tmp_path: Path,
    http_client: urllib3.PoolManager,
) -> None:
    digest = live_mirror.link_blob("live/streamed", b"streamed")
    with LiveService(tmp_path, valkey, rclone_s3, "live", MIRROR_SERVE_REDIRECT="true") as service:
        answer = http_client.request("GET", f"{service.url}/v2/live/streamed/blobs/{digest}", redirect=False)
        assert (answer.status, answer.data) == (200, b"streamed")
        [warning] = [line for line in service.lines() if line["level"] == "warning"]
        assert warning["event"].startswith("blobs are streamed and not redirected to S3")
        assert "MIRROR_S3_PUBLIC_ENDPOINT" in warning["hint"]
        assert "X-Amz" not in service.log.read_text()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MIRROR_REDIS_URL": "", "MIRROR_S3_ENDPOINT": "", "MIRROR_S3_BUCKET": ""}, ["_REDIS_URL", "_S3_BUCKET"]),
        ({"MIRROR_PORT": "none"}, ["MIRROR_PORT"]),
        ({"MIRROR_HOST": "0.0.0.0", "MIRROR_ADMIN_TOKEN": ""}, ["MIRROR_ADMIN_TOKEN", "MIRROR_PUBLIC_URL"]),
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_served(
    live: LiveService, settings: dict[str, str], named: list[str]
) -> None:
    given = {name: value for name, value in {**live.environment(), **settings}.items() if value}
    ended = subprocess.run([sys.executable, "-m", "service"], env=given, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 2
    assert all(name in ended.stderr for name in named)
    assert "Traceback" not in ended.stderr


@pytest.mark.skopeo
@pytest.mark.parametrize(
    "held",
    [images.image(images.layer("skopeo", compressed=True), images.layer("more")), images.three_platforms("skopeo")],
    ids=["a single manifest", "three platforms"],
)
def test_skopeo_inspects_and_copies_what_the_mirror_holds(
    live: LiveService, live_mirror: SeededCatalog, tmp_path: Path, held: images.TestImage
) -> None:
    live_mirror.hold(held, "docker.io/library/redis:7")
    reference = f"docker://{live.host}/docker.io/library/redis:7"
    skopeo = str(program("skopeo"))
    inspected = subprocess.run(
        [skopeo, "inspect", "--tls-verify=false", "--raw", reference], capture_output=True, check=True, timeout=60
    )
    assert inspected.stdout == held.body
    target = tmp_path / "copied"
    command = [skopeo, "copy", "--all", "--src-tls-verify=false", reference, f"dir:{target}"]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert (target / "manifest.json").read_bytes() == held.body
    for digest, content in held.all_blobs().items():
        assert (target / digest.hex).read_bytes() == content
    listed = subprocess.run(
        [skopeo, "list-tags", "--tls-verify=false", reference.removesuffix(":7")], capture_output=True, check=True
    )
    assert json.loads(listed.stdout)["Tags"] == ["7"]


@pytest.mark.skopeo
def test_a_push_says_that_the_mirror_is_read_only_and_what_to_do(live: LiveService, tmp_path: Path) -> None:
    held = images.image(images.layer("pushed"))
    (tmp_path / "version").write_text("Directory Transport Version: 1.1\n")
    (tmp_path / "manifest.json").write_bytes(held.body)
    for digest, content in held.all_blobs().items():
        (tmp_path / digest.hex).write_bytes(content)
    command = [str(program("skopeo")), "copy", "--dest-tls-verify=false", f"dir:{tmp_path}"]
    pushed = subprocess.run([*command, f"docker://{live.host}/team/app:1"], capture_output=True, text=True, timeout=60)
    assert pushed.returncode != 0
    assert "this registry is read-only; copy images into it with POST /v1/jobs" in pushed.stderr


@pytest.mark.skopeo
def test_skopeo_logs_in_where_pulls_are_closed(
    valkey: ValkeyServer, rclone_s3: RcloneS3, live_mirror: SeededCatalog, tmp_path: Path
) -> None:
    held = images.image(images.layer("closed"))
    live_mirror.hold(held, "live/closed:1")
    skopeo = str(program("skopeo"))
    with LiveService(tmp_path, valkey, rclone_s3, "live", MIRROR_ANONYMOUS_PULL="false") as service:
        reference = f"docker://{service.host}/live/closed:1"
        command = [skopeo, "inspect", "--raw", "--tls-verify=false"]
        assert subprocess.run([*command, reference], capture_output=True, timeout=60).returncode != 0
        login = ["--creds", f"anybody:{service.token}"]
        inspected = subprocess.run([*command, *login, reference], capture_output=True, check=True, timeout=60)
    assert inspected.stdout == held.body


@pytest.fixture
def script(tmp_path: Path, live: LiveService) -> list[str]:
    """The command of the script that the how-to shows."""
    page = DRIFT_PAGE.read_text()
    found = re.search(r"^```sh\n(#!/bin/sh\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    path = tmp_path / "check-drift"
    path.write_text(found[1])
    (tmp_path / "token").write_text(live.token)
    settings = [f"MIRROR_URL=http://{live.host}", f"MIRROR_TOKEN_FILE={tmp_path / 'token'}"]
    return ["env", *settings, "sh", str(path)]


def test_the_script_exits_as_the_page_says(script: Sequence[str], live_mirror: SeededCatalog, tmp_path: Path) -> None:
    core = live_mirror.core
    schedule = core.schedules.create(read_definition(NIGHTLY))
    for number, (outcome, status, state) in enumerate(
        [(COPY, 3, "drifted"), (UNCHANGED, 0, "in_sync"), (FAILED, 1, "unknown")]
    ):
        with subprocess.Popen([*script, "nightly"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not end_plan(core, outcome):
                pass
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == status
        assert json.loads(printed)["state"] == state
        definition = replace(schedule.definition, labels={"version": str(number)})
        schedule = core.schedules.replace(schedule, definition)
    for arguments, status in ([], 2), (["a", "b"], 2), (["other"], 1):
        assert subprocess.run([*script, *arguments], capture_output=True, check=False).returncode == status
    (tmp_path / "token").write_text("wrong")
    assert subprocess.run([*script, "nightly"], capture_output=True, check=False).returncode == 1
