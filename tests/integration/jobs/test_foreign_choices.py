"""Foreign layers by choice: included from the URLs of their publisher, or left out though they could be had."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job
from mirror.records.rules import CopyOptions, ForeignLayers
from mirror.records.task import BlobReport, ForeignLayerCounts
from mirror.storage import layout
from tests.integration.jobs.planning import applied, found, planned
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Synthetic
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

CONTENT: Final = b"the base layer of an operating system" * 100
DIGEST: Final = Digest.of(CONTENT)
PASSWORD: Final = "a secret of the registry"
TARGET: Final = LocalImage("prod/app", "1")
COPIED, LEFT_OUT, UNKNOWN = ForeignLayerCounts(copied=1), ForeignLayerCounts(left_out=1), None


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and the publisher. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def insecure_hosts(registry: FakeRegistry) -> frozenset[str]:
    """The CDN of the scripted registry is the publisher. It refuses every request with a login."""
    return frozenset({registry.host, registry.cdn_host})


def at_publisher(harness: Harness, name: str = "publisher", content: bytes = CONTENT) -> str:
    """Let the publisher serve the layer, and return the URL."""
    harness.registry.put_blob(name, DIGEST, content)
    return f"http://{harness.registry.cdn_host}/{name}/{DIGEST}"


def windows(urls: Sequence[str], **fields: object) -> images.TestImage:
    """An image with an ordinary layer, and a foreign one that its registry does not have."""
    entry = {"mediaType": images.FOREIGN_LAYER, "digest": str(DIGEST), "size": len(CONTENT), "urls": list(urls)}
    return images.image(images.layer("ours"), foreign=[{**entry, **fields}])


def mirrored(harness: Harness, image: images.TestImage, choice: ForeignLayers, target: LocalImage = TARGET) -> Job:
    harness.registry.put(image, "team/app", "1")
    options = CopyOptions(foreign_layers=choice)
    return harness.run_tasks(harness.submit_with(options, "team/app:1", str(target)))


def counts(harness: Harness, job: Job) -> ForeignLayerCounts | None:
    assert (job.state, job.error) == ("succeeded", None)
    [task] = harness.jobs.tasks(job.id, 1)
    return task.foreign_layers


def report(harness: Harness, job: Job) -> BlobReport:
    [task] = harness.jobs.tasks(job.id, 1)
    return {blob.digest: blob for blob in harness.jobs.blobs_of([task.id])[0]}[str(DIGEST)]


def requested(harness: Harness, server: str, path: str = str(DIGEST)) -> list[Request]:
    return [request for request in harness.registry.log(server) if path in request.path]


def is_linked(harness: Harness, target: LocalImage = TARGET) -> bool:
    return harness.core.links.has_layer(target.repository, DIGEST)


@pytest.mark.parametrize("choice", ["include", "when-held"])
def test_what_the_source_lacks_is_read_from_its_url_only_if_the_job_asks_for_that(
    harness: Harness, choice: ForeignLayers
) -> None:
    is_included = choice == "include"
    job = mirrored(harness, windows([at_publisher(harness)]), choice)
    assert counts(harness, job) == (COPIED if is_included else LEFT_OUT)
    assert [request.method for request in requested(harness, "api")] == ["HEAD"]
    assert [request.method for request in requested(harness, "cdn")] == (["GET"] if is_included else [])
    assert harness.core.blobs.read(DIGEST, len(CONTENT)) == (CONTENT if is_included else None)
    assert is_linked(harness) is is_included


def test_a_layer_that_the_source_serves_is_not_read_from_its_url(harness: Harness) -> None:
    harness.registry.put_blob("team/app", DIGEST, CONTENT)
    assert counts(harness, mirrored(harness, windows([at_publisher(harness)]), "include")) == COPIED
    assert requested(harness, "cdn") == []


def test_a_layer_that_only_a_head_of_the_source_finds_is_read_from_its_url(harness: Harness) -> None:
    harness.registry.put_blob("team/app", DIGEST, CONTENT)
    gone = faults.faulty(faults.status(404), path=f"/blobs/{DIGEST}", method="GET", server="api")
    harness.registry.script(gone)
    assert counts(harness, mirrored(harness, windows([at_publisher(harness)]), "include")) == COPIED


@pytest.mark.parametrize("choice", ["include", "when-held"])
def test_a_layer_that_the_manifest_embeds_needs_no_url(harness: Harness, choice: ForeignLayers) -> None:
    image = windows([at_publisher(harness)], data=base64.b64encode(CONTENT).decode())
    assert counts(harness, mirrored(harness, image, choice)) == COPIED
    assert requested(harness, "cdn") == []
    assert is_linked(harness)


def test_no_url_receives_the_login_of_the_registry_even_if_it_is_at_the_registry(
    harness: Harness, tmp_path: Path
) -> None:
    """CVE-2020-15157: a manifest named a URL, and the client sent its registry's password there."""
    harness.registry.basic = ("robot", PASSWORD)
    login = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {harness.registry.host: {"auth": login}}}))
    logged_in = harness.with_settings(docker_config=config)
    at_registry = f"http://{harness.registry.host}/v2/another/repository/blobs/{DIGEST}"
    harness.registry.put_blob("another/repository", DIGEST, CONTENT)
    image = windows([at_registry, at_publisher(harness)])
    assert counts(logged_in, mirrored(logged_in, image, "include")) == COPIED
    assert {request.headers.get("Authorization") for request in requested(harness, "api", "/another/")} == {None}
    assert {request.headers.get("Authorization") for request in requested(harness, "cdn")} == {None}
    assert any("Authorization" in request.headers for request in requested(harness, "api", "/team/app/"))
    logged_in.core.close()


def test_what_a_url_delivered_has_no_registry_as_its_source(harness: Harness) -> None:
    mirrored(harness, windows([at_publisher(harness)]), "include")
    held = layout.blob_provenance_key(DIGEST, harness.registry.host, "team/app")
    assert held not in harness.stored()


def test_urls_are_tried_in_their_order_until_one_delivers_the_layer(harness: Harness) -> None:
    gone, wrong, right = (at_publisher(harness, name) for name in ("gone", "wrong", "right"))
    harness.registry.script(faults.faulty(faults.status(404), path="/gone/"))
    harness.registry.script(faults.faulty(faults.wrong_byte(), path="/wrong/"))
    moved = at_publisher(harness, "moved")
    harness.registry.script(
        lambda request, _: Reply(302, {"Location": right}) if request.path.startswith("/moved/") else None
    )
    assert counts(harness, mirrored(harness, windows([gone, wrong, moved, right]), "include")) == COPIED
    asked = [request.path.split("/")[1] for request in requested(harness, "cdn")]
    assert asked == ["gone", "wrong", "moved", "right"]
    assert harness.core.blobs.read(DIGEST, len(CONTENT)) == CONTENT


def test_a_large_layer_is_read_in_ranges_and_continues_at_the_next_url(harness: Harness) -> None:
    large = Synthetic(40 * 2**20)
    names = ("first", "second")
    for name in names:
        harness.registry.put_blob(name, large.digest, large)
    urls = [f"http://{harness.registry.cdn_host}/{name}/{large.digest}" for name in names]
    image = windows(urls, digest=str(large.digest), size=large.size)

    def fails_at_its_end(request: Request, _: Reply) -> Reply | None:
        is_last = request.path.startswith("/first/") and request.headers.get("Range", "").startswith("bytes=33554432-")
        return Reply(404) if is_last else None

    harness.registry.script(fails_at_its_end)
    assert counts(harness, mirrored(harness, image, "include")) == COPIED
    asked = [request.path.split("/")[1] for request in harness.registry.log("cdn")]
    assert set(asked) == set(names)
    assert all("Range" in request.headers for request in harness.registry.log("cdn"))
    assert harness.core.blobs.held(large.digest) == large.size


REFUSED = [
    # what the publisher does, and how the error says it
    (faults.status(404), "it answered 404"),
    (faults.status(401, WWW_Authenticate='Basic realm="x"'), "sends no login to a URL"),
    (faults.status(403), "sends no login to a URL"),
    (faults.wrong_byte(), "have the digest"),
    (faults.too_long(), f"should have {len(CONTENT)} bytes"),
    (faults.body(b"<html>log in</html>"), f"should have {len(CONTENT)} bytes"),
    (faults.status(302, Location="http://127.0.0.1:1/x"), "redirects to 127.0.0.1:1 without TLS"),
    (faults.status(302, Location="https://169.254.169.254/x"), "link-local"),
]


@pytest.mark.parametrize(("fault", "said"), REFUSED)
def test_a_layer_that_no_url_delivers_fails_the_image_and_says_why(
    harness: Harness, fault: faults.Change, said: str
) -> None:
    harness.registry.script(faults.faulty(fault, server="cdn"))
    job = mirrored(harness, windows([at_publisher(harness)]), "include")
    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "FOREIGN_LAYER_UNAVAILABLE")
    assert f"{harness.registry.cdn_host}: " in job.error.message
    assert said in job.error.message
    assert harness.core.links.current("prod/app", "1") is None
    assert layout.blob_key(DIGEST) not in harness.stored()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://publisher.example/layer", "its URL is without TLS"),
        ("https://10.1.2.3/layer", "10.1.2.3"),
        ("ftp://publisher.example/layer", "names no URL that the mirror may use"),
        ("https://robot:secret@publisher.example/layer", "names no URL that the mirror may use"),
    ],
)
def test_a_url_that_may_not_be_used_is_not_requested(harness: Harness, url: str, said: str) -> None:
    job = mirrored(harness, windows([url]), "include")
    assert job.error is not None
    assert (job.error.code, said in job.error.message) == ("FOREIGN_LAYER_UNAVAILABLE", True)
    assert "secret" not in job.error.message


def test_a_layer_without_a_url_fails_the_image_before_anything_is_copied(harness: Harness) -> None:
    job = mirrored(harness, windows([]), "include")
    assert job.error is not None
    assert job.error.code == "FOREIGN_LAYER_UNAVAILABLE"
    assert requested(harness, "api", "/blobs/") == requested(harness, "api")


def test_a_publisher_that_limits_requests_lets_the_job_wait(harness: Harness) -> None:
    limited = faults.faulty(faults.status(429, Retry_After="120"), server="cdn")
    harness.registry.script(limited)
    job = mirrored(harness, windows([at_publisher(harness)]), "include")
    assert (job.state, job.error) == ("queued", None)
    assert job.waiting_for is not None
    assert (job.waiting_for.reason, job.waiting_for.registry) == ("rate_limited", harness.registry.cdn_host)
    assert harness.core.links.current("prod/app", "1") is None


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not held"])
def test_a_layer_that_is_left_out_is_neither_asked_for_nor_linked(harness: Harness, is_held: bool) -> None:
    image = windows([at_publisher(harness)])
    harness.registry.put_blob("team/app", DIGEST, CONTENT)
    if is_held:
        assert counts(harness, mirrored(harness, image, "when-held", LocalImage("other/app", "1"))) == COPIED
    harness.registry.requests.clear()
    job = mirrored(harness, image, "leave-out")
    assert counts(harness, job) == LEFT_OUT
    left_out = report(harness, job)
    assert (left_out.state, left_out.code) == ("skipped", None)
    assert left_out.reason == "a foreign layer, and the job leaves those out"
    assert requested(harness, "api") == requested(harness, "cdn") == []
    assert not is_linked(harness)


def test_a_layer_that_another_image_of_the_repository_has_is_served_on(harness: Harness) -> None:
    """The links of a repository are for all of its images, and no copy removes one."""
    harness.registry.put_blob("team/app", DIGEST, CONTENT)
    mirrored(harness, windows([]), "when-held", LocalImage("prod/app", "with"))
    mirrored(harness, windows([]), "leave-out")
    assert is_linked(harness)
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert entry.foreign_layers == "leave-out"


AGAIN = [
    # how the tag was mirrored, where the layer is now, how it is asked for again, and the layers: None for unchanged
    ("when-held", "cdn", "include", COPIED),
    ("when-held", "api", "when-held", UNKNOWN),
    ("when-held", "api", "leave-out", UNKNOWN),
    ("leave-out", "api", "when-held", COPIED),
    ("leave-out", "cdn", "when-held", LEFT_OUT),
    ("leave-out", "cdn", "include", COPIED),
    ("leave-out", "api", "leave-out", UNKNOWN),
]


@pytest.mark.parametrize(("first", "place", "then", "layers"), AGAIN)
def test_a_tag_that_lacks_a_layer_is_not_unchanged_for_a_job_that_may_bring_it(
    harness: Harness, first: ForeignLayers, place: str, then: ForeignLayers, layers: ForeignLayerCounts | None
) -> None:
    image = windows([f"http://{harness.registry.cdn_host}/publisher/{DIGEST}"])
    mirrored(harness, image, first)
    harness.registry.put_blob({"cdn": "publisher", "api": "team/app"}[place], DIGEST, CONTENT)
    assert counts(harness, mirrored(harness, image, then)) == layers
    assert is_linked(harness) is (layers == COPIED)
    again = mirrored(harness, image, then)
    assert (again.state, again.images.unchanged) == ("succeeded", 1)


def test_a_rebuilt_index_still_knows_that_a_layer_is_missing(harness: Harness) -> None:
    image = windows([at_publisher(harness)])
    mirrored(harness, image, "when-held")
    before = harness.core.index.entry("prod/app", "1")
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    assert before is not None
    assert harness.core.index.entry("prod/app", "1") == before
    assert counts(harness, mirrored(harness, image, "include")) == COPIED


@pytest.mark.parametrize("choice", ["include", "leave-out"])
def test_a_plan_counts_the_layers_that_applying_it_brings(harness: Harness, choice: ForeignLayers) -> None:
    harness.registry.put(windows([at_publisher(harness)]), "team/app", "1")
    plan = planned(harness, "team/app:1", options=CopyOptions(foreign_layers=choice))
    assert requested(harness, "cdn") == []
    harness.registry.requests.clear()
    job = applied(harness, plan)
    assert (job.state, plan.totals.bytes_to_copy) == ("succeeded", job.bytes.copied)
    assert len(harness.registry.log("api")) == plan.totals.requests
    assert len(harness.registry.log("cdn")) == (choice == "include")


def test_a_plan_says_that_a_layer_cannot_be_included(harness: Harness) -> None:
    harness.registry.put(windows([]), "team/app", "1")
    plan = planned(harness, "team/app:1", options=replace(CopyOptions(), foreign_layers="include"))
    [image] = found(harness, plan)
    assert (image.action, image.code) == ("fail", "FOREIGN_LAYER_UNAVAILABLE")
