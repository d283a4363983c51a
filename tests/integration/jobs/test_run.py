"""A task from its claim to its end, against a scripted registry, a real Valkey and a real S3."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.jobs.claim import HANDOVER
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import ByteCounts
from mirror.storage import layout
from mirror.storage.multipart import OpenUpload
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness, mark_built

FLIPPED = bytes([255])


def local(harness: Harness, name: str) -> LocalImage:
    return LocalImage.parse(f"{harness.registry.host.replace(':', '_')}/{name}")


def served_blobs(harness: Harness) -> list[str]:
    return [r.path.rpartition("/")[2] for r in harness.registry.log("api", method="GET", path="/blobs/")]


def open_uploads(harness: Harness) -> list[OpenUpload]:
    return harness.bucket.uploads.list_open("")


def test_an_image_lands_byte_for_byte_under_its_sources_name(harness: Harness) -> None:
    image = images.image(images.layer("a"), images.layer("b", compressed=True))
    harness.registry.put(image, "team/app", "1.0")
    job = harness.mirror("team/app:1.0")
    assert (job.state, job.error, job.digest) == ("succeeded", None, str(image.digest))
    held = harness.core.reader.image(local(harness, "team/app:1.0"))
    assert held.root.body == image.body
    assert set(held.sizes) == {image.digest, *image.blobs}
    assert harness.core.links.current(local(harness, "team/app").repository, "1.0") == image.digest


@pytest.mark.parametrize(
    "image",
    [
        images.three_platforms("flat"),
        images.index(("linux/amd64", images.image(images.layer("d"), docker=True)), docker=True),
        images.index((None, images.three_platforms("nested"))),
        images.image(images.layer("u"), stated=False),
        images.index(),
    ],
    ids=["oci index", "manifest list", "nested index", "no mediaType", "empty index"],
)
def test_every_kind_of_manifest_is_mirrored_whole(harness: Harness, image: images.TestImage) -> None:
    harness.registry.put(image, "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    held = harness.core.reader.image(local(harness, "team/app:1.0"))
    assert {m.descriptor.digest for m in held.manifests} == {m.digest for m in image.all_manifests()}
    assert {b.digest for b in held.blobs} == set(image.all_blobs())


def test_the_second_image_with_a_base_copies_only_its_own_layers(harness: Harness) -> None:
    base = images.layer("base", 50_000)
    first, second = images.image(base, images.layer("one")), images.image(base, images.layer("two", 3000))
    harness.registry.put(first, "team/one", "1")
    harness.registry.put(second, "other/two", "1")
    harness.mirror("team/one:1")
    job = harness.mirror("other/two:1")
    own = sum(len(content) for digest, content in second.blobs.items() if digest != base.digest)
    assert job.bytes == ByteCounts(own + len(base.content), own, len(base.content))
    assert served_blobs(harness).count(str(base.digest)) == 1
    [task] = harness.jobs.tasks(job.id, 1)
    assert {b.digest: b.state for b in harness.jobs.blobs_of([task.id])[0]}[str(base.digest)] == "exists"


def test_a_job_of_several_images_is_partial_when_one_is_not_there(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.registry.put(images.image(images.layer("b")), "team/app", "2")
    job = harness.run_tasks(
        harness.submit_all(("team/app:1", None), ("team/app:none", None), ("team/app:2", "prod/app:2"))
    )
    assert (job.state, job.images.succeeded, job.images.failed) == ("partial", 2, 1)
    assert job.error is not None
    assert job.error.code == "MANIFEST_UNKNOWN"
    tasks = harness.jobs.tasks(job.id, 5)
    assert [task.state for task in tasks] == ["succeeded", "failed", "succeeded"]
    assert str(harness.core.links.current("prod/app", "2")) == tasks[2].digest


def test_what_is_there_already_is_unchanged_and_costs_one_request(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.mirror("team/app:1")
    stored, asked = harness.stored(), len(harness.registry.log())
    job = harness.mirror("team/app:1")
    assert (job.state, job.images.unchanged) == ("succeeded", 1)
    assert [r.method for r in harness.registry.log()[asked:]] == ["HEAD"]
    assert harness.stored() == stored


def test_a_lost_index_does_not_make_a_copy_of_what_the_bucket_shows(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.mirror("team/app:1", "prod/app:1")
    harness.core.index.remove("prod/app", "1")
    job = harness.mirror("team/app:1", "prod/app:1")
    assert (job.state, job.images.unchanged) == ("succeeded", 1)
    assert harness.core.index.entry("prod/app", "1")


def test_a_tag_that_a_built_index_misses_is_published_once_more_without_its_layers(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.mirror("team/app:1", "prod/app:1")
    mark_built(harness.redis)
    harness.core.index.remove("prod/app", "1")
    stored, served = harness.stored(), served_blobs(harness)
    job = harness.mirror("team/app:1", "prod/app:1")
    assert (job.state, job.images.unchanged) == ("succeeded", 0)
    assert served_blobs(harness) == served
    assert harness.stored() == stored
    assert harness.core.index.entry("prod/app", "1")


def test_the_index_alone_makes_no_image_unchanged(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.mirror("team/app:1", "prod/app:1")
    mark_built(harness.redis)
    stored = harness.stored()
    harness.bucket.delete([layout.tag_current_key("prod/app", "1")])
    job = harness.mirror("team/app:1", "prod/app:1")
    assert (job.state, job.images.unchanged) == ("succeeded", 0)
    assert harness.stored() == stored


def test_a_digest_without_a_tag_is_kept(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    harness.registry.put(image, "team/app", "1")
    job = harness.mirror(f"team/app@{image.digest}")
    assert job.state == "succeeded"
    repository = local(harness, "team/app").repository
    assert layout.kept_key(repository, image.digest) in harness.stored()
    assert harness.core.reader.digest(LocalImage(repository, digest=image.digest)) == image.digest
    assert harness.mirror(f"team/app@{image.digest}").images.unchanged == 1


def corrupt(_request: Request, reply: Reply) -> Reply | None:
    assert isinstance(reply.body, bytes)
    return Reply(reply.status, reply.headers, reply.body[:-1] + FLIPPED)


def truncate(_request: Request, reply: Reply) -> Reply | None:
    reply.cut_after = 100
    return reply


def too_long(_request: Request, reply: Reply) -> Reply | None:
    assert isinstance(reply.body, bytes)
    return Reply(reply.status, {}, reply.body + b"more")


def unauthorized(_request: Request, _reply: Reply) -> Reply | None:
    return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})


def status(code: int) -> Callable[[Request, Reply], Reply | None]:
    return lambda _request, _reply: Reply(code)


def oversized(_request: Request, _reply: Reply) -> Reply | None:
    return Reply(200, {"Content-Length": str(5 * 2**20)}, b"{")


def lying(_request: Request, reply: Reply) -> Reply | None:
    assert isinstance(reply.body, bytes)
    document = json.loads(reply.body)
    document["layers"][0]["size"] += 1
    body = json.dumps(document).encode()
    return Reply(200, {"Content-Type": reply.headers["Content-Type"]}, body)


def schema_1(_request: Request, _reply: Reply) -> Reply | None:
    media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    return Reply(200, {"Content-Type": media_type}, b'{"schemaVersion": 1, "fsLayers": []}')


@pytest.mark.parametrize(
    ("path", "script", "code"),
    [
        ("/blobs/", corrupt, "DIGEST_MISMATCH"),
        ("/blobs/", truncate, "ANSWER_TRUNCATED"),
        ("/blobs/", too_long, "SIZE_INVALID"),
        ("/blobs/", status(404), "BLOB_UNKNOWN"),
        ("/blobs/", status(403), "DENIED"),
        ("/manifests/", status(404), "MANIFEST_UNKNOWN"),
        ("/manifests/", status(418), "SOURCE_FAILED"),
        ("/manifests/", unauthorized, "UNAUTHORIZED"),
        ("/manifests/", oversized, "ANSWER_TOO_LARGE"),
        ("/manifests/", schema_1, "MEDIA_TYPE_UNSUPPORTED"),
        ("/manifests/", lying, "SIZE_INVALID"),
    ],
)
def test_a_source_that_misbehaves_fails_the_job_and_leaves_nothing_to_see(
    harness: Harness, path: str, script: Callable[[Request, Reply], Reply | None], code: str
) -> None:
    harness.registry.put(images.image(images.layer("a", 100_000)), "team/app", "1")

    def scripted(request: Request, reply: Reply) -> Reply | None:
        if path not in request.path or (request.method == "HEAD" and script in (lying, schema_1, oversized)):
            return Reply(405) if request.method == "HEAD" else None
        return script(request, reply)

    harness.registry.script(scripted)
    job = harness.mirror("team/app:1")
    assert job.state == "failed"
    assert job.error is not None
    assert job.error.code == code
    assert job.error.hint
    leftovers = [key for key in harness.stored() if "/repositories/" in key or key.startswith("mirror/v1/images")]
    assert leftovers == []
    assert open_uploads(harness) == []


def test_a_large_blob_with_one_wrong_byte_leaves_no_object_and_no_open_upload(harness: Harness) -> None:
    big = images.layer("big", 17 * 2**20)
    harness.registry.put(images.image(big), "team/app", "1")
    harness.registry.script(lambda q, reply: corrupt(q, reply) if str(big.digest) in q.path else None)
    job = harness.mirror("team/app:1")
    assert job.error is not None
    assert job.error.code == "DIGEST_MISMATCH"
    assert layout.blob_key(big.digest) not in harness.stored()
    assert open_uploads(harness) == []


def test_a_held_blob_is_not_asked_for_even_if_the_source_would_now_corrupt_it(harness: Harness) -> None:
    base = images.layer("base")
    harness.registry.put(images.image(base), "team/app", "1")
    harness.mirror("team/app:1")
    harness.registry.put(images.image(base, images.layer("more")), "team/app", "2")
    harness.registry.script(lambda q, reply: corrupt(q, reply) if str(base.digest) in q.path else None)
    assert harness.mirror("team/app:2").state == "succeeded"


def test_a_cut_connection_is_taken_up_at_the_byte_it_reached(harness: Harness) -> None:
    big = images.layer("big", 3 * 2**20)
    harness.registry.put(images.image(big), "team/app", "1")
    cut = threading.Event()

    def once(request: Request, reply: Reply) -> Reply | None:
        if str(big.digest) not in request.path or cut.is_set():
            return None
        cut.set()
        reply.cut_after = 2 * 2**20 + 17
        return reply

    harness.registry.script(once)
    assert harness.mirror("team/app:1").state == "succeeded"
    first, second = harness.registry.log("api", method="GET", path=str(big.digest))
    assert "Range" not in first.headers
    assert int(second.headers["Range"].removeprefix("bytes=").partition("-")[0]) >= 2**20


def test_a_source_without_ranges_is_read_again_from_its_beginning(harness: Harness) -> None:
    big = images.layer("big", 3 * 2**20)
    harness.registry.ranges = False
    harness.registry.put(images.image(big), "team/app", "1")
    cut = threading.Event()

    def once(request: Request, reply: Reply) -> Reply | None:
        if str(big.digest) in request.path and not cut.is_set():
            cut.set()
            reply.cut_after = 2**20 + 17
        return reply

    harness.registry.script(once)
    assert harness.mirror("team/app:1").state == "succeeded"


def test_a_long_wait_parks_the_task_and_says_until_when(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("a")), "team/app", "1")
    harness.registry.script(lambda q, _: Reply(429, {"Retry-After": "120"}) if q.method == "HEAD" else None)
    job = harness.mirror("team/app:1")
    assert (job.state, job.error) == ("queued", None)
    assert job.waiting_for is not None
    assert (job.waiting_for.reason, job.waiting_for.registry) == ("rate_limited", harness.registry.host)
    assert len(harness.registry.log()) == 1


def test_an_interrupted_task_is_handed_over_and_finished_by_the_next_worker(harness: Harness) -> None:
    big = images.layer("big", 2**20)
    harness.registry.put(images.image(big), "team/app", "1")
    cancellation, release = Cancellation(), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(big.digest) in request.path and not release.is_set():
            reply.hold = (1000, release)
            cancellation.cancel(HANDOVER)
        return reply

    harness.registry.script(hold)
    handed = harness.run_tasks(harness.submit("team/app:1"), cancellation)
    assert (handed.state, handed.attempt) == ("queued", 1)
    assert open_uploads(harness) == []
    [task] = harness.jobs.tasks(handed.id, 1)
    assert harness.core.queue.holds(task.id, task.fence)
    release.set()
    assert harness.run_tasks(handed).state == "succeeded"


@pytest.mark.parametrize("later_finishes_first", [True, False])
def test_of_two_jobs_for_one_tag_the_later_one_wins_whoever_finishes_last(
    harness: Harness, later_finishes_first: bool
) -> None:
    """The earlier job has asked the source and waits for its layer. The tag moves upstream. The later job runs."""
    old, new = images.image(images.layer("old", 2**20)), images.image(images.layer("new"))
    harness.registry.put(old, "team/app", "1")
    release, held = threading.Event(), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if any(str(d) in request.path for d in old.blobs) and later_finishes_first:
            reply.hold = (10, release)
            held.set()
        return reply

    harness.registry.script(hold)
    earlier, later = harness.submit("team/app:1"), harness.submit("team/app:1")
    thread = threading.Thread(target=harness.run_tasks, args=(earlier,))
    thread.start()
    if later_finishes_first:
        assert held.wait(20)
    else:
        thread.join()
    harness.registry.put(new, "team/app", "1")
    finished = harness.run_tasks(later)
    release.set()
    thread.join()
    assert finished.state == "succeeded"
    overtaken = harness.jobs.job(earlier.id)
    assert (overtaken.state, overtaken.superseded_by) == ("succeeded", later.id if later_finishes_first else None)
    assert harness.core.reader.digest(local(harness, "team/app:1")) == new.digest


def test_a_copy_that_asked_before_a_delete_does_not_bring_the_tag_back(harness: Harness) -> None:
    image = images.image(images.layer("a", 2**20))
    harness.registry.put(image, "team/app", "1")
    harness.mirror("team/app:1", "copy/app:1")
    target = LocalImage("copy/app", "1")
    again = images.image(images.layer("b", 2**20))
    harness.registry.put(again, "team/app", "1")
    release, held = threading.Event(), threading.Event()

    def hold(request: Request, reply: Reply) -> Reply | None:
        if any(str(d) in request.path for d in again.blobs):
            reply.hold = (10, release)
            held.set()
        return reply

    harness.registry.script(hold)
    job = harness.submit("team/app:1", "copy/app:1")
    thread = threading.Thread(target=harness.run_tasks, args=(job,))
    thread.start()
    assert held.wait(20)
    harness.core.deleter.delete(target, allowed=lambda _: True)
    release.set()
    thread.join()
    assert harness.jobs.job(job.id).superseded_by == "delete"
    assert harness.core.links.current("copy/app", "1") is None


def test_sha512_content_is_mirrored(harness: Harness) -> None:
    content = b"layer" * 100
    digest = Digest.of(content, "sha512")
    base = images.image(images.layer("a"))
    document = json.loads(base.body)
    document["layers"].append({"mediaType": images.OCI_LAYER, "digest": str(digest), "size": len(content)})
    image = images.TestImage(json.dumps(document).encode(), base.media_type, {**base.blobs, digest: content})
    harness.registry.put(image, "team/app", "1")
    job = harness.mirror("team/app:1")
    assert (job.state, job.error, job.waiting_for) == ("succeeded", None, None)
    assert harness.core.blobs.read(digest, len(content)) == content
