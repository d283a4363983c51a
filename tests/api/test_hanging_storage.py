"""While S3 accepts connections and never responds, a pull ends within 15 s, and nothing else waits.

S3 is a real server that SIGSTOP halts. The kernel still accepts connections for it, and no program reads them. All
tests of this file look at one outage, because each outage takes those seconds. The bound is the feature, so this file
asserts it. `BOUND` is 10 s more, for a busy machine.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Final

import pytest

from mirror.errors import StorageUnavailable
from mirror.oci.digest import Digest
from mirror.settings import Settings
from mirror.wiring import build
from tests.api.live_service import LiveService
from tests.api.process_clients import ProcessClient
from tests.api.seeded_catalog import SeededCatalog
from tests.api.test_live import LARGE
from tests.api.test_slow_clients import connections_to
from tests.support import images
from tests.support.harness import mark_built
from tests.support.servers import REGION, EmbeddedS3, ValkeyServer

BOUND: Final = 25.0
"""Seconds for every pull. Without a bound of its own, a pull takes about 100 s."""
GIVEN_UP: Final = 60.0
"""Seconds after which a client of these tests gives up. So a service without the bound fails them sooner."""
CLOSED_WITHIN: Final = 5.0
OF_EACH: Final = 16
PREFIX: Final = "hanging"
REPOSITORY: Final = "team/app"
IMAGE: Final = images.three_platforms("hanging")
CACHED: Final = images.image(images.layer("cached"))
BLOB: Final = bytes(range(256)) * 400
UNAFFECTED: Final = ("/livez", "/v1/jobs", "/v1/images", "/v1/repositories")


@dataclass(frozen=True, slots=True)
class Pull:
    """A request under ``/v2``. *served* is its status while S3 works. A *cached* one may be served without S3."""

    kind: str
    method: str
    path: str
    served: int = 200
    redirecting: bool = False
    cached: bool = False
    content: Digest | None = None


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a client received for a pull, and after how many seconds. The status is 0 for a client that gave up."""

    pull: Pull
    status: int
    body: bytes
    seconds: float


@dataclass(slots=True)
class Outage:
    """Everything that clients saw while S3 hung, and right after that."""

    pulls: list[PullResult]
    unaffected: list[tuple[str, int]]
    """Path and status of the requests that were answered while pulls waited."""
    stream: tuple[int, float]
    """Bytes of the blob that was being streamed, and seconds until its connection ended."""
    connections: tuple[int, int]
    """Connections to S3 before the outage, and when all pulls had ended."""
    pulls_after: list[PullResult] = field(default_factory=list)


@dataclass(slots=True)
class HangingMirror:
    """Two services over one S3: one streams blobs, the other redirects."""

    s3: EmbeddedS3
    streaming: LiveService
    redirecting: LiveService
    catalog: SeededCatalog

    def send(self, pull: Pull) -> PullResult:
        """Send a pull over a connection of its own."""
        service = self.redirecting if pull.redirecting else self.streaming
        begun = monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=GIVEN_UP)
        try:
            connection.request(pull.method, pull.path)
            response = connection.getresponse()
            return PullResult(pull, response.status, response.read(), monotonic() - begun)
        except TimeoutError:
            return PullResult(pull, 0, b"", monotonic() - begun)
        finally:
            connection.close()

    def hang(self) -> None:
        """Halt S3. The kernel goes on accepting connections."""
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    @property
    def _pid(self) -> int:
        assert self.s3.pid is not None
        return self.s3.pid


def pulls_of(catalog: SeededCatalog) -> list[Pull]:
    """Return one pull of each kind. No process has served any of these names before, except the cached ones."""
    catalog.hold(IMAGE, f"{REPOSITORY}:1")
    catalog.hold(CACHED, f"{REPOSITORY}:cached")
    child = next(iter(IMAGE.children))
    blob = catalog.link_blob(REPOSITORY, BLOB)
    path = f"/v2/{REPOSITORY}"
    return [
        Pull("manifest by tag", "GET", f"{path}/manifests/1", content=IMAGE.digest),
        Pull("manifest by digest", "GET", f"{path}/manifests/{child}", content=child),
        Pull("HEAD of a manifest", "HEAD", f"{path}/manifests/{child}"),
        Pull("HEAD of a blob", "HEAD", f"{path}/blobs/{blob}"),
        Pull("streamed blob", "GET", f"{path}/blobs/{blob}", content=blob),
        Pull("redirected blob", "GET", f"{path}/blobs/{blob}", served=307, redirecting=True),
        Pull("tags", "GET", f"{path}/tags/list", cached=True),
        Pull("manifest that was pulled before", "GET", f"{path}/manifests/cached", cached=True),
    ]


@pytest.fixture(scope="module")
def hanging_mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HangingMirror]:
    with ExitStack() as running:
        valkey = running.enter_context(ValkeyServer(tmp_path_factory.mktemp("hanging-valkey")))
        s3 = running.enter_context(EmbeddedS3(tmp_path_factory.mktemp("hanging-s3")))
        public = {"MIRROR_S3_PUBLIC_ENDPOINT": s3.url.replace("127.0.0.1", "localhost")}
        streaming, redirecting = (
            running.enter_context(LiveService(tmp_path_factory.mktemp("service"), valkey, s3, PREFIX, **settings))
            for settings in ({}, {"MIRROR_SERVE_REDIRECT": "true", **public})
        )
        environment = running.enter_context(pytest.MonkeyPatch.context())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, s3.settings_env()[name])
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("data"),
            redis_url=valkey.url,
            s3_endpoint=s3.url,
            s3_bucket=s3.bucket,
            s3_region=REGION,
            s3_prefix=PREFIX,
            allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        )
        core = build(settings)
        mark_built(core.redis)
        yield HangingMirror(s3, streaming, redirecting, SeededCatalog(core))
        core.close()


@pytest.fixture(scope="module")
def outage(hanging_mirror: HangingMirror) -> Outage:
    """Halt S3 while a blob is streamed, send a hundred pulls at once, and let it answer again."""
    kinds = pulls_of(hanging_mirror.catalog)
    pulls = [pull for pull in kinds for _ in range(2 if pull.cached else OF_EACH)]
    large = hanging_mirror.catalog.link_blob(REPOSITORY, LARGE)
    probes = ProcessClient.of_each(hanging_mirror.streaming)
    for probe in probes:
        assert probe.ask("GET", f"/v2/{REPOSITORY}/manifests/cached").status == 200
    with ThreadPoolExecutor(len(pulls) + 1) as pool:
        download = begin_download(hanging_mirror.streaming, f"/v2/{REPOSITORY}/blobs/{large}")
        before = connections_to(hanging_mirror.s3.port)
        hanging_mirror.hang()
        try:
            streaming = pool.submit(rest_of, download)
            waiting = [pool.submit(hanging_mirror.send, pull) for pull in pulls]
            unaffected = list(answered_meanwhile(waiting, probes))
            ended = [each.result() for each in waiting]
            stream = streaming.result()
            after = connections_left(hanging_mirror.s3, before)
            found = Outage(ended, unaffected, stream, (before, after))
        finally:
            hanging_mirror.resume()
        found.pulls_after = list(pool.map(hanging_mirror.send, pulls))
    for probe in probes:
        probe.close()
    return found


def connections_left(s3: EmbeddedS3, most: int) -> int:
    """Return the number of connections to S3 when there are at most *most*, or after `CLOSED_WITHIN`."""
    deadline = monotonic() + CLOSED_WITHIN
    while (found := connections_to(s3.port)) > most and monotonic() < deadline:
        sleep(0.1)
    return found


def begin_download(service: LiveService, path: str) -> http.client.HTTPResponse:
    """Begin to read a blob quickly, so that the service streams it from S3."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=GIVEN_UP)
    connection.request("GET", path, headers={"Connection": "close"})  # then closing the response closes it
    response = connection.getresponse()
    assert response.status == 200
    assert len(response.read(4 * 2**20)) == 4 * 2**20
    return response


def rest_of(response: http.client.HTTPResponse) -> tuple[int, float]:
    """Read until the connection ends. Return the bytes of that, and the seconds."""
    begun, received = monotonic(), 0
    try:
        while piece := response.read1(2**20):
            received += len(piece)
    except (ConnectionResetError, http.client.IncompleteRead):
        pass
    finally:
        response.close()
    return received, monotonic() - begun


def answered_meanwhile(
    waiting: Sequence[Future[PullResult]], probes: Sequence[ProcessClient]
) -> Iterator[tuple[str, int]]:
    """Ask each process for what needs no S3, over and over, until no pull waits any more."""
    while wait(waiting, timeout=0.1).not_done:
        for probe in probes:
            for path in UNAFFECTED:
                yield path, probe.administer("GET", path).status


def ended_with(results: Sequence[PullResult], is_wrong: Callable[[PullResult], bool]) -> list[str]:
    """Return a sentence for each wrong result."""
    return [f"{r.pull.kind}: {r.status} after {r.seconds:.1f} s: {r.body[:200]!r}" for r in results if is_wrong(r)]


def test_no_pull_takes_longer_than_its_bound_when_a_hundred_wait_at_once(outage: Outage) -> None:
    assert len(outage.pulls) == 6 * OF_EACH + 4
    assert ended_with(outage.pulls, lambda result: result.seconds > BOUND) == []


def test_a_pull_that_s3_does_not_answer_is_503_with_a_code_and_a_hint(outage: Outage) -> None:
    """What needs no S3 may be served: a list, and what a process has in its memory."""

    def is_wrong(result: PullResult) -> bool:
        if result.status == 200 and result.pull.cached:
            return False
        if result.status != 503:
            return True
        if result.pull.method == "HEAD":
            return result.body != b""
        [error] = json.loads(result.body)["errors"]
        return bool(error["code"] != StorageUnavailable.code or not error["detail"]["hint"])

    assert ended_with(outage.pulls, is_wrong) == []


def test_what_needs_no_s3_is_answered_while_pulls_wait(outage: Outage) -> None:
    assert set(outage.unaffected) == {(path, 200) for path in UNAFFECTED}


def test_a_blob_that_s3_stops_sending_ends_before_its_length(outage: Outage) -> None:
    received, seconds = outage.stream
    assert 0 < received < len(LARGE) - 4 * 2**20
    assert seconds < BOUND


def test_a_pull_that_ended_holds_no_connection_to_s3(outage: Outage) -> None:
    before, after = outage.connections
    assert after <= before


def test_all_pulls_succeed_at_once_when_s3_answers_again(outage: Outage) -> None:
    """A hundred at once, with no retry. So no place among the concurrent pulls was lost either."""

    def is_wrong(result: PullResult) -> bool:
        content = result.pull.content
        return result.status != result.pull.served or (content is not None and Digest.of(result.body) != content)

    assert ended_with(outage.pulls_after, is_wrong) == []
    assert ended_with(outage.pulls_after, lambda result: result.seconds > BOUND) == []
