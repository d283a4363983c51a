"""Registries with odd but usable responses: a plain GET and the digest are enough for a job to succeed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mirror.oci.digest import Digest
from mirror.records.job import Job
from mirror.records.task import BlobReport
from tests.integration.jobs.test_unchanged import content, mirrored, shown, submitted
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import Reply, Request, Script
from tests.support.harness import Harness

pytestmark = pytest.mark.parametrize("s3_server", ["rclone_s3"], indirect=True)

OTHER = Digest.of(b"another image")


@pytest.fixture
def app(harness: Harness) -> images.TestImage:
    image = images.image(images.layer("app"))
    harness.registry.put(image, "team/app", "1")
    return image


def asked(harness: Harness, since: int = 0) -> list[str]:
    """The manifest requests, as method and tag or digest."""
    log = harness.registry.log()[since:]
    return [f"{r.method} {r.path.rpartition('/')[2]}" for r in log if "/manifests/" in r.path]


def layer_of(app: images.TestImage) -> Digest:
    return list(app.blobs)[-1]


def blobs(harness: Harness, job: Job) -> list[BlobReport]:
    [task] = harness.jobs.tasks(job.id, 1)
    return harness.jobs.blobs_of([task.id])[0]


def head(reply: Callable[[Request], Reply]) -> Script:
    return lambda request, _: reply(request) if request.method == "HEAD" else None


def by_digest(reply: Reply) -> Script:
    """Another answer to a GET of a manifest by its digest."""
    return lambda request, _: reply if "/manifests/sha256:" in request.path else None


@pytest.mark.parametrize("status", [400, 403, 404, 405, 500, 501, 503])
def test_whatever_a_head_is_answered_with_the_image_is_mirrored(
    harness: Harness, app: images.TestImage, status: int
) -> None:
    harness.registry.script(head(lambda _: Reply(status)))
    job = harness.mirror("team/app:1")
    assert (job.state, job.digest, asked(harness)) == ("succeeded", str(app.digest), ["HEAD 1", "GET 1"])


def test_a_tag_that_is_there_already_costs_one_get_where_no_head_tells_it(
    harness: Harness, app: images.TestImage
) -> None:
    harness.registry.script(head(lambda _: Reply(404)))
    harness.mirror("team/app:1")
    stored, before = harness.stored(), len(harness.registry.log())
    for _ in range(2):
        job = harness.mirror("team/app:1")
        assert (job.state, job.images.unchanged, job.digest) == ("succeeded", 1, str(app.digest))
    assert [request.method for request in harness.registry.log()[before:]] == ["GET", "GET"]
    assert harness.stored() == stored


@pytest.mark.parametrize("reply", [Reply(404), Reply(400), Reply(403), Reply(405), Reply(500), Reply(200, {}, b"{}")])
def test_a_registry_that_serves_tags_only_is_read_by_tag(harness: Harness, app: images.TestImage, reply: Reply) -> None:
    harness.registry.script(by_digest(reply))
    job = harness.mirror("team/app:1")
    assert (job.state, job.digest) == ("succeeded", str(app.digest))
    assert asked(harness) == ["HEAD 1", f"GET {app.digest}", "GET 1"]


@pytest.mark.parametrize("limit", [None, 10])
def test_a_head_that_names_another_digest_than_the_get_shows_is_not_believed(
    harness: Harness, app: images.TestImage, limit: int | None
) -> None:
    harness.registry.script(head(lambda _: Reply(200, {"Docker-Content-Digest": str(OTHER)})))
    hub = PullLimit(limit or 1, window=600)
    if limit:
        harness.registry.script(hub)
    for unchanged in (0, 1):
        job = harness.mirror("team/app:1")
        assert (job.state, job.digest, job.images.unchanged) == ("succeeded", str(app.digest), unchanged)
    assert hub.refused == 0


@pytest.mark.usefixtures("app")
def test_a_digest_that_the_user_gave_is_no_hint(harness: Harness) -> None:
    job = harness.mirror(f"team/app:1@{OTHER}", "prod/app:1")
    assert job.error is not None
    assert (job.error.code, asked(harness)) == ("MANIFEST_UNKNOWN", [f"GET {OTHER}"])
    assert harness.core.links.current("prod/app", "1") is None


def test_a_tag_that_moves_between_head_and_get_is_mirrored_as_it_is_then(
    harness: Harness, app: images.TestImage
) -> None:
    new = images.image(images.layer("new"))

    def move(request: Request, _: Reply) -> Reply | None:
        if request.method == "GET" and request.path.endswith(str(app.digest)):
            harness.registry.put(new, "team/app", "1")
            return Reply(404)
        return None

    harness.registry.script(move)
    assert harness.mirror("team/app:1").digest == str(new.digest)
    assert asked(harness) == ["HEAD 1", f"GET {app.digest}", "GET 1"]


def gone(harness: Harness, path: str, *, then: Callable[[], None]) -> None:
    """From its first request on, *path* cannot be read. *then* changes something at the registry."""
    first = threading.Event()

    def script(request: Request, _: Reply) -> Reply | None:
        if path not in request.path:
            return None
        if not first.is_set():
            first.set()
            then()
        return Reply(404)

    harness.registry.script(script)


def test_a_blob_that_vanished_since_its_tag_moved_leads_to_what_the_tag_shows_now(
    harness: Harness, app: images.TestImage
) -> None:
    new = images.image(images.layer("new"))
    old_layer = layer_of(app)
    gone(harness, str(old_layer), then=lambda: harness.registry.put(new, "team/app", "1"))
    job = harness.mirror("team/app:1", "prod/app:1")
    assert (job.state, job.digest) == ("succeeded", str(new.digest))
    assert harness.core.links.current("prod/app", "1") == new.digest
    assert {blob.digest for blob in blobs(harness, job)} == {str(digest) for digest in new.blobs}


def test_a_child_that_vanished_since_its_tag_moved_leads_to_what_the_tag_shows_now(harness: Harness) -> None:
    old, new = images.three_platforms("old"), images.three_platforms("new")
    harness.registry.put(old, "team/app", "1")
    child = next(iter(old.children))
    gone(harness, f"/manifests/{child}", then=lambda: harness.registry.put(new, "team/app", "1"))
    assert harness.mirror("team/app:1").digest == str(new.digest)


def test_a_blob_that_is_missing_while_the_tag_stays_fails_with_its_reason_after_one_more_look(
    harness: Harness, app: images.TestImage
) -> None:
    layer = layer_of(app)
    harness.registry.script(faults.faulty(faults.status(404), path=str(layer)))
    job = harness.mirror("team/app:1")
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "BLOB_UNKNOWN")
    assert asked(harness) == ["HEAD 1", f"GET {app.digest}", "GET 1"]
    [failed] = [blob for blob in blobs(harness, job) if blob.state == "failed"]
    assert (failed.digest, failed.code, failed.reason) == (str(layer), "BLOB_UNKNOWN", job.error.message)


@pytest.mark.usefixtures("app")
def test_a_tag_that_moves_again_and_again_ends_the_job(harness: Harness) -> None:
    """Every image that the tag shows has lost its layers by the time they are asked for."""
    turns: list[images.TestImage] = []

    def move(request: Request, _: Reply) -> Reply | None:
        if "/blobs/" not in request.path:
            return None
        turns.append(images.image(images.layer(f"turn {len(turns)}")))
        harness.registry.put(turns[-1], "team/app", "1")
        return Reply(404)

    harness.registry.script(move)
    job = harness.mirror("team/app:1")
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "BLOB_UNKNOWN")
    assert [name for name in asked(harness) if name.endswith(" 1")] == ["HEAD 1", "GET 1"]


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(500, "SOURCE_FAILED", "it answered 500 for the blob"), (403, "DENIED", "does not allow reading 'team/app'")],
)
def test_a_blob_that_its_registry_does_not_give_says_why(
    harness: Harness, app: images.TestImage, status: int, code: str, reason: str
) -> None:
    layer = layer_of(app)
    harness.registry.script(faults.faulty(faults.status(status), path=str(layer)))
    found = {blob.digest: blob for blob in blobs(harness, harness.mirror("team/app:1"))}[str(layer)]
    assert (found.state, found.code) == ("failed", code)
    assert reason in (found.reason or "")


def test_one_wrong_byte_of_a_blob_is_its_reason(harness: Harness, app: images.TestImage) -> None:
    layer = layer_of(app)
    harness.registry.script(faults.faulty(faults.wrong_byte(), path=str(layer)))
    found = {blob.digest: blob for blob in blobs(harness, harness.mirror("team/app:1"))}[str(layer)]
    assert (found.state, found.code) == ("failed", "DIGEST_MISMATCH")


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("path", ["/manifests/", "/blobs/"])
@pytest.mark.parametrize(("status", "after"), [(503, lambda: "3600"), (503, in_an_hour), (502, lambda: "3600")])
def test_a_503_that_says_when_to_come_back_waits_as_a_429_does(
    harness: Harness, path: str, status: int, after: Callable[[], str]
) -> None:
    harness.registry.script(faults.faulty(faults.status(status, Retry_After=after()), path=path))
    job = harness.mirror("team/app:1")
    assert job.waiting_for is not None
    assert (job.state, job.waiting_for.reason) == ("queued", "rate_limited")
    assert f"answered {status}" in (job.waiting_for.message or "")
    until = datetime.fromisoformat(str(job.waiting_for.until)) - redis_time(harness)
    assert timedelta(minutes=50) < until <= timedelta(minutes=61)


def redis_time(harness: Harness) -> datetime:
    return datetime.fromtimestamp(harness.redis.now() / 1000, UTC)


def test_a_503_that_asks_for_a_moment_is_asked_again_after_it(harness: Harness, app: images.TestImage) -> None:
    harness.registry.script(faults.faulty(faults.status(503, Retry_After="3"), method="GET", times=1))
    job = harness.mirror("team/app:1")
    assert (job.state, job.digest) == ("succeeded", str(app.digest))


@pytest.mark.usefixtures("app")
def test_a_503_that_asks_for_no_time_at_all_is_a_failure_like_any_other(harness: Harness) -> None:
    harness.registry.script(faults.faulty(faults.status(503, Retry_After="0"), path="/manifests/"))
    job = harness.mirror("team/app:1")
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "SOURCE_FAILED")


@pytest.mark.usefixtures("app")
def test_a_registry_that_answers_is_never_called_unreachable(harness: Harness) -> None:
    harness.mirror("team/app:1")
    new = images.image(images.layer("new"))
    harness.registry.put(new, "team/app", "2")
    harness.registry.script(faults.faulty(faults.status(500)))
    for _ in range(7):  # the last ones are not sent: the breaker is open
        waiting = harness.mirror("team/app:2").waiting_for
        assert waiting is not None
        assert f"answered 500 for the manifest of {harness.registry.host}/team/app:2" in (waiting.message or "")
        assert "reach" not in f"{waiting.reason} {waiting.message}"


@pytest.mark.usefixtures("app")
def test_a_registry_that_is_new_and_fails_says_what_it_answered(harness: Harness) -> None:
    harness.registry.script(faults.faulty(faults.status(502)))
    for _ in range(7):
        error = harness.mirror("team/app:1").error
        assert error is not None
        assert (error.code, "answered 502 for the manifest" in error.message) == ("SOURCE_FAILED", True)


@pytest.mark.usefixtures("app")
def test_a_registry_that_hangs_up_is_called_unreachable(harness: Harness) -> None:
    harness.mirror("team/app:1")
    harness.registry.script(faults.faulty(faults.hung_up()))
    for _ in range(7):
        waiting = harness.mirror("team/app:1").waiting_for
        assert waiting is not None
        assert waiting.reason == "registry_unreachable"
        assert "the connection was lost" in (waiting.message or "")


@pytest.mark.parametrize(
    "reply",
    [Reply(404), Reply(501), Reply(200), Reply(200, {"Docker-Content-Digest": str(OTHER)})],
    ids=["404", "501", "no digest", "another digest"],
)
def test_many_tags_that_have_not_changed_are_found_so_without_their_heads(harness: Harness, reply: Reply) -> None:
    mirrored(harness, 10)
    stored = harness.stored()
    harness.registry.put(content(7, "new"), "team/app", "v7")
    harness.registry.script(head(lambda _: Reply(reply.status, dict(reply.headers))))
    job = harness.run_work_horses(submitted(harness, 10))
    assert (job.state, job.images.succeeded, job.images.unchanged) == ("succeeded", 10, 9)
    assert shown(harness, 7) == str(content(7, "new").digest)
    assert set(stored) < set(harness.stored())


@pytest.mark.usefixtures("app")
def test_an_image_that_is_not_there_names_what_may_be_wrong(harness: Harness) -> None:
    error = harness.mirror("team/app:none").error
    assert error is not None
    assert error.code == "MANIFEST_UNKNOWN"
    assert "credentials may be missing" in error.hint


@pytest.mark.parametrize("platform", ["linux/arm64", None])
def test_a_child_that_is_not_there_is_named_with_its_index_and_its_platform(
    harness: Harness, platform: str | None
) -> None:
    child = images.image(images.layer("a"), platform="linux/arm64")
    image = images.index(("linux/amd64", images.image(images.layer("b"))), (platform, child))
    harness.registry.put(image, "team/app", "1")
    harness.registry.script(faults.faulty(faults.status(404), path=f"/manifests/{child.digest}"))
    error = harness.mirror("team/app:1").error
    assert error is not None
    assert error.code == "MANIFEST_UNKNOWN"
    for part in (str(child.digest), platform or "no named platform", f"{harness.registry.host}/team/app:1"):
        assert part in error.message
