"""Foreign layers: mirrored if the source itself serves them, left out and named if not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Final

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.jobs.claim import HANDOVER
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job
from mirror.records.task import BlobReport, ForeignLayerCounts
from mirror.storage import layout
from tests.integration.catalog.support import always
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness, mark_built
from tests.support.servers import RcloneS3

CONTENT: Final = b"the base layer of an operating system that only its publisher distributes" * 100
DIGEST: Final = Digest.of(CONTENT)
OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
TARGET: Final = LocalImage("prod/app", "1")
COPIED, LEFT_OUT = ForeignLayerCounts(copied=1), ForeignLayerCounts(left_out=1)
ABSENT: Final = images.image(images.layer("ours"), foreign=[images.foreign_layer("windows")])
Script = Callable[[Request, Reply], Reply | None]


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source. Any S3 server will do."""
    return rclone_s3


def windows(*, media_type: str = images.FOREIGN_LAYER, url: str = "", ours: str = "ours") -> images.TestImage:
    """An image with an ordinary layer and a foreign one, whose bytes its registry holds."""
    return images.with_foreign_layer(images.image(images.layer(ours)), CONTENT, media_type=media_type, url=url)


def mirrored(harness: Harness, image: images.TestImage, target: LocalImage = TARGET) -> Job:
    harness.registry.put(image, "team/app", "1")
    job = harness.mirror("team/app:1", str(target))
    assert (job.state, job.error) == ("succeeded", None)
    return job


def counts(harness: Harness, job: Job) -> ForeignLayerCounts | None:
    """Return the counts of the job's only task, which are those of the job."""
    [task] = harness.jobs.tasks(job.id, 1)
    assert task.foreign_layers in (None, job.foreign_layers)
    return task.foreign_layers


def reports(harness: Harness, job: Job) -> dict[str, BlobReport]:
    [task] = harness.jobs.tasks(job.id, 1)
    return {blob.digest: blob for blob in harness.jobs.blobs_of([task.id])[0]}


def asked(harness: Harness, digest: Digest | str = DIGEST) -> list[tuple[str, str]]:
    return [(r.method, r.headers.get("Range", "")) for r in harness.registry.log(path=f"/blobs/{digest}")]


def is_linked(harness: Harness, target: LocalImage = TARGET, digest: Digest = DIGEST) -> bool:
    return harness.core.links.has_layer(target.repository, digest)


def on_foreign(script: Script) -> Script:
    """Let *script* change the replies to requests for the foreign layer, and no others."""
    return lambda request, reply: script(request, reply) if str(DIGEST) in request.path else None


def answers(**statuses: int) -> Script:
    """Answer each named method with its status."""
    headers = {"WWW-Authenticate": 'Basic realm="x"'}
    return on_foreign(
        lambda request, _: Reply(statuses[request.method], headers) if request.method in statuses else None
    )


@pytest.mark.parametrize("media_type", [images.FOREIGN_LAYER, OCI_FOREIGN])
def test_a_foreign_layer_that_the_source_has_is_mirrored_like_any_other(harness: Harness, media_type: str) -> None:
    image = windows(media_type=media_type)
    job = mirrored(harness, image)
    assert counts(harness, job) == COPIED
    assert asked(harness) == [("HEAD", ""), ("GET", "")]
    assert harness.core.blobs.read(DIGEST, len(CONTENT)) == CONTENT
    assert is_linked(harness)
    assert set(harness.core.reader.image(TARGET).sizes) == {image.digest, *image.blobs}
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert entry.size == len(image.body) + sum(map(len, image.blobs.values()))
    assert job.bytes.total == job.bytes.copied == sum(map(len, image.blobs.values()))


def test_a_foreign_layer_that_the_source_does_not_have_is_left_out_and_named(harness: Harness) -> None:
    [digest] = [layer["digest"] for layer in json.loads(ABSENT.body)["layers"] if "urls" in layer]
    job = mirrored(harness, ABSENT)
    assert counts(harness, job) == LEFT_OUT
    left_out = reports(harness, job)[digest]
    assert (left_out.state, left_out.code) == ("skipped", "BLOB_UNKNOWN")
    assert left_out.reason is not None
    assert left_out.reason.startswith("a foreign layer that the source does not serve: The registry")
    assert asked(harness, digest) == [("HEAD", "")]
    assert not is_linked(harness, digest=Digest.parse(digest))
    assert job.bytes.total == sum(map(len, ABSENT.blobs.values()))
    assert set(harness.core.reader.image(TARGET).sizes) == {ABSENT.digest, *ABSENT.blobs}


def test_an_image_without_foreign_layers_counts_none(harness: Harness) -> None:
    assert counts(harness, mirrored(harness, images.image(images.layer("a")))) == ForeignLayerCounts()


@pytest.mark.parametrize("image", [windows(), ABSENT], ids=["copied", "left out"])
def test_an_unchanged_image_costs_one_head_and_says_nothing_of_foreign_layers(
    harness: Harness, image: images.TestImage
) -> None:
    mirrored(harness, image)
    harness.registry.requests.clear()
    job = mirrored(harness, image)
    assert job.images.unchanged == 1
    assert counts(harness, job) is None
    assert [(r.method, "/manifests/" in r.path) for r in harness.registry.log()] == [("HEAD", True)]


def test_the_urls_of_a_foreign_layer_are_never_requested(harness: Harness) -> None:
    """Neither if the source serves the layer, nor if not."""
    url = f"http://{harness.registry.cdn_host}/publisher/layer"
    mirrored(harness, windows(url=url))
    unknown = {**images.foreign_layer("windows"), "urls": [url]}
    mirrored(harness, images.image(images.layer("a"), foreign=[unknown]), LocalImage("prod/other", "1"))
    assert harness.registry.log("cdn") == []
    assert harness.registry.connections["cdn"] == 0


@pytest.mark.parametrize("status", [400, 403, 405, 500, 501])
def test_where_head_fails_a_get_of_one_byte_decides(harness: Harness, status: int) -> None:
    harness.registry.script(answers(HEAD=status))
    assert counts(harness, mirrored(harness, windows())) == COPIED
    assert asked(harness) == [("HEAD", ""), ("GET", "bytes=0-0"), ("GET", "")]


@pytest.mark.parametrize(("status", "code"), [(404, "BLOB_UNKNOWN"), (403, "DENIED")])
def test_where_head_fails_and_get_is_refused_the_layer_is_left_out(harness: Harness, status: int, code: str) -> None:
    harness.registry.script(answers(HEAD=405, GET=status))
    job = mirrored(harness, windows())
    assert counts(harness, job) == LEFT_OUT
    assert reports(harness, job)[str(DIGEST)].code == code
    assert not is_linked(harness)


@pytest.mark.parametrize(("status", "code"), [(404, "BLOB_UNKNOWN"), (403, "DENIED")])
def test_a_layer_that_only_head_finds_is_left_out(harness: Harness, status: int, code: str) -> None:
    harness.registry.script(answers(GET=status))
    job = mirrored(harness, windows())
    assert counts(harness, job) == LEFT_OUT
    assert (reports(harness, job)[str(DIGEST)].state, reports(harness, job)[str(DIGEST)].code) == ("skipped", code)
    assert not is_linked(harness)
    assert layout.blob_key(DIGEST) not in harness.stored()
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert entry.size == sum(harness.core.reader.image(TARGET).sizes.values())


def test_a_source_that_redirects_to_urls_for_get_alone_has_its_layer_copied(harness: Harness) -> None:
    """A URL that was signed for GET refuses HEAD with 403."""
    harness.registry.redirect_blobs = True
    harness.registry.script(
        lambda request, _: Reply(403) if request.server == "cdn" and request.method == "HEAD" else None
    )
    assert counts(harness, mirrored(harness, windows())) == COPIED


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_rate_limit_lets_the_job_wait_and_leaves_nothing_out(harness: Harness, method: str) -> None:
    limited = {"HEAD": 405, method: 429}
    harness.registry.put(windows(), "team/app", "1")
    harness.registry.script(
        on_foreign(
            lambda request, _: (
                Reply(limited[request.method], {"Retry-After": "120"}) if request.method in limited else None
            )
        )
    )
    job = harness.mirror("team/app:1", str(TARGET))
    assert (job.state, job.error) == ("queued", None)
    assert job.waiting_for is not None
    assert job.waiting_for.reason == "rate_limited"
    assert harness.core.index.entry("prod/app", "1") is None


def test_a_registry_that_fails_lets_the_job_wait_and_leaves_nothing_out(harness: Harness) -> None:
    """It is known to work, since it has just served the manifest."""
    harness.registry.put(windows(), "team/app", "1")
    harness.registry.script(answers(HEAD=500, GET=500))
    job = harness.mirror("team/app:1", str(TARGET))
    assert (job.state, job.foreign_layers) == ("queued", ForeignLayerCounts())
    assert job.waiting_for is not None
    assert job.waiting_for.reason == "registry_failing"
    harness.registry.scripts.clear()
    harness.redis.call("FLUSHALL")
    assert counts(harness, mirrored(harness, windows())) == COPIED


def test_a_shutdown_ends_the_wait_for_the_answer_to_a_head(harness: Harness) -> None:
    harness.registry.put(windows(), "team/app", "1")
    cancellation, release = Cancellation(), threading.Event()

    def hang(request: Request, _: Reply) -> Reply | None:
        if request.method == "HEAD":
            cancellation.cancel(HANDOVER)
            release.wait()
        return None

    harness.registry.script(on_foreign(hang))
    job = harness.run_tasks(harness.submit("team/app:1", str(TARGET)), cancellation)
    release.set()
    assert (job.state, job.error) == ("queued", None)
    harness.registry.scripts.clear()
    assert harness.run_tasks(job).foreign_layers == COPIED


@pytest.mark.parametrize("status", [401, 418])
def test_any_other_refusal_is_an_error_as_for_any_blob(harness: Harness, status: int) -> None:
    harness.registry.put(windows(), "team/app", "1")
    harness.registry.script(answers(HEAD=status, GET=status))
    job = harness.mirror("team/app:1", str(TARGET))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == {401: "UNAUTHORIZED", 418: "SOURCE_FAILED"}[status]
    assert harness.core.index.entry("prod/app", "1") is None


def flipped(request: Request, reply: Reply) -> Reply | None:
    assert isinstance(reply.body, bytes)
    return Reply(200, {}, bytes([reply.body[0] ^ 1]) + reply.body[1:]) if request.method == "GET" else None


def longer(request: Request, reply: Reply) -> Reply | None:
    assert isinstance(reply.body, bytes)
    return Reply(200, {}, reply.body + b"more") if request.method == "GET" else None


@pytest.mark.parametrize(("script", "code"), [(flipped, "DIGEST_MISMATCH"), (longer, "SIZE_INVALID")])
def test_wrong_bytes_fail_the_job_as_for_any_blob(harness: Harness, script: Script, code: str) -> None:
    harness.registry.put(windows(), "team/app", "1")
    harness.registry.script(on_foreign(script))
    job = harness.mirror("team/app:1", str(TARGET))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == code
    assert layout.blob_key(DIGEST) not in harness.stored()


def test_a_held_foreign_layer_is_linked_without_a_request_and_counts_as_copied(harness: Harness) -> None:
    mirrored(harness, windows())
    harness.registry.requests.clear()
    other = LocalImage("prod/other", "1")
    job = mirrored(harness, windows(ours="another"), other)
    assert counts(harness, job) == COPIED
    assert reports(harness, job)[str(DIGEST)].state == "exists"
    assert asked(harness) == []
    assert is_linked(harness, other)


def test_a_layer_that_is_ordinary_in_another_manifest_is_not_optional(harness: Harness) -> None:
    ordinary = images.image(images.Layer(images.OCI_LAYER, CONTENT))
    index = images.index(("linux/amd64", ordinary), ("windows/amd64", windows()))
    harness.registry.put(index, "team/app", "1")
    harness.registry.script(answers(HEAD=404, GET=404))
    job = harness.mirror("team/app:1", str(TARGET))
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == "BLOB_UNKNOWN"


def test_a_job_sums_its_images_and_a_retry_counts_anew(harness: Harness) -> None:
    harness.registry.put(windows(), "team/app", "1")
    harness.registry.put(ABSENT, "team/app", "2")
    broken = images.with_foreign_layer(images.image(images.layer("broken")), b"another base")
    harness.registry.put(broken, "team/app", "3")
    lost = images.layer("broken").digest
    harness.registry.script(lambda request, _: Reply(404) if str(lost) in request.path else None)
    job = harness.run_tasks(harness.submit_all(*((f"team/app:{n}", f"prod/app:{n}") for n in (1, 2, 3))))
    assert (job.state, job.images.failed) == ("partial", 1)
    [_, _, failed] = harness.jobs.tasks(job.id, 3)
    assert failed.foreign_layers is not None
    assert job.foreign_layers.left_out == 1
    harness.registry.scripts.clear()
    harness.jobs.retry(job.id)
    [*_, retried] = harness.jobs.tasks(job.id, 3)
    assert retried.foreign_layers is None
    assert harness.jobs.job(job.id).foreign_layers == ForeignLayerCounts(1, 1)
    assert harness.run_tasks(job).foreign_layers == ForeignLayerCounts(2, 1)


def test_a_tag_in_another_repository_links_the_foreign_layer_too(harness: Harness) -> None:
    mirrored(harness, windows())
    live = LocalImage("live/app", "1")
    harness.core.retagger.retag(live, TARGET, allowed=always)
    assert is_linked(harness, live)
    assert harness.core.reader.image(live).sizes == harness.core.reader.image(TARGET).sizes


def test_a_tag_in_another_repository_needs_no_foreign_layer_that_was_left_out(harness: Harness) -> None:
    mirrored(harness, ABSENT)
    live = LocalImage("live/app", "1")
    harness.core.retagger.retag(live, TARGET, allowed=always)
    assert set(harness.core.reader.image(live).sizes) == {ABSENT.digest, *ABSENT.blobs}


@pytest.mark.parametrize("has_record", [True, False], ids=["record", "no record"])
@pytest.mark.parametrize("image", [windows(), ABSENT], ids=["copied", "left out"])
def test_an_index_that_is_rebuilt_lists_the_image_as_before(
    harness: Harness, image: images.TestImage, has_record: bool
) -> None:
    mirrored(harness, image)
    mark_built(harness.redis)
    before = harness.core.index.entry("prod/app", "1"), harness.core.index.repositories(limit=10)
    assert before[0] is not None
    if not has_record:
        harness.bucket.delete([layout.image_provenance_key("prod/app", image.digest)])
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert (entry.digest, entry.size) == (before[0].digest, before[0].size)
    assert harness.core.index.repositories(limit=10) == before[1]
