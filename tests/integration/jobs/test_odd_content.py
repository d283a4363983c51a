"""Images with unknown or unreadable parts: everything that is available is mirrored, and the rest is named."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import urllib3

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job
from mirror.records.task import BlobReport
from mirror.storage import layout
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import PullLimit
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import DockerRegistry, RcloneS3, S3Storage

pytestmark = pytest.mark.parametrize("s3_server", ["rclone_s3"], indirect=True)

SBOM = b"an SBOM, as a plain blob"
SBOM_TYPE = "application/vnd.example.sbom+json"
AMD64 = images.image(images.layer("amd64"))
TARGET = LocalImage("prod/app", "1")


def served_size(harness: Harness, digest: Digest) -> int | None:
    """Return the size of a blob that the repository links, None if it may not serve it."""
    is_linked = harness.core.links.has_layer("prod/app", digest)
    return harness.core.blobs.held(digest) if is_linked else None


def described(content: bytes, media_type: str | None, **fields: Any) -> dict[str, Any]:
    named = {} if media_type is None else {"mediaType": media_type}
    return {**named, "digest": str(Digest.of(content)), "size": len(content), **fields}


def index_of(*others: dict[str, Any], children: tuple[images.TestImage, ...] = (AMD64,)) -> images.TestImage:
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    entries = [*({**child.descriptor, **platform} for child in children), *others]
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    return images.TestImage(body, media_types.OCI_INDEX, children={child.digest: child for child in children})


def mirrored(harness: Harness, image: images.TestImage) -> Job:
    harness.registry.put(image, "team/app", "1")
    job = harness.mirror("team/app:1", str(TARGET))
    assert (job.state, job.error, job.digest) == ("succeeded", None, str(image.digest))
    assert harness.core.reader.manifest(TARGET).body == image.body
    return job


def report(harness: Harness, job: Job, digest: Digest) -> BlobReport:
    [task] = harness.jobs.tasks(job.id, 1)
    return {blob.digest: blob for blob in harness.jobs.blobs_of([task.id])[0]}[str(digest)]


def serve(harness: Harness, content: bytes, media_type: str) -> None:
    """Hold a manifest that no test image stands for."""
    harness.registry.put(images.TestImage(content, media_type), "team/app")


def assert_pullable(harness: Harness) -> None:
    """The child for amd64 is whole, and the index can be given another tag."""
    held = harness.core.reader.image(TARGET)
    assert AMD64.digest in {manifest.descriptor.digest for manifest in held.manifests}
    assert all(served_size(harness, blob.digest) for blob in held.blobs)
    harness.core.retagger.retag(LocalImage("prod/app", "again"), TARGET, allowed=lambda _: True)


def test_a_child_of_an_unknown_type_is_copied_as_a_blob(harness: Harness) -> None:
    digest = Digest.of(SBOM)
    harness.registry.put_blob("team/app", digest, SBOM)
    job = mirrored(harness, index_of(described(SBOM, SBOM_TYPE)))
    assert report(harness, job, digest).state == "copied"
    assert served_size(harness, digest) == len(SBOM)
    assert_pullable(harness)


@pytest.mark.parametrize("status", [404, 400, 403, 405])
def test_a_child_of_an_unknown_type_that_is_no_blob_is_left_out_and_named(harness: Harness, status: int) -> None:
    digest = Digest.of(SBOM)
    harness.registry.script(faults.faulty(faults.status(status), path=f"/blobs/{digest}"))
    found = report(harness, mirrored(harness, index_of(described(SBOM, SBOM_TYPE))), digest)
    assert found.state == "skipped"
    assert SBOM_TYPE in (found.reason or "")
    assert layout.layer_link_key("prod/app", digest) not in harness.stored()
    assert_pullable(harness)


@pytest.mark.parametrize("size", [len(SBOM) + 1, len(SBOM) - 1, 0])
def test_a_child_of_an_unknown_type_that_is_not_what_its_index_says_is_left_out(harness: Harness, size: int) -> None:
    harness.registry.put_blob("team/app", Digest.of(SBOM), SBOM)
    job = mirrored(harness, index_of({**described(SBOM, SBOM_TYPE), "size": size}))
    assert report(harness, job, Digest.of(SBOM)).state == "skipped"
    assert harness.bucket.uploads.list_open("") == []
    assert_pullable(harness)


def test_a_child_of_an_unknown_type_that_is_also_a_layer_is_copied_once(harness: Harness) -> None:
    digest, content = list(AMD64.blobs.items())[-1]
    job = mirrored(harness, index_of(described(content, SBOM_TYPE)))
    assert report(harness, job, digest).state == "copied"
    assert len(harness.registry.log(method="GET", path=str(digest))) == 1


@pytest.mark.parametrize("media_type", ["", None])
def test_a_child_without_a_type_is_what_its_body_says(harness: Harness, media_type: str | None) -> None:
    child = images.image(images.layer("untyped"))
    harness.registry.put(child, "team/app")
    mirrored(harness, index_of(described(child.body, media_type)))
    assert harness.core.reader.image(LocalImage("prod/app", digest=child.digest)).root.body == child.body
    assert child.digest in {manifest.descriptor.digest for manifest in harness.core.reader.image(TARGET).manifests}
    assert_pullable(harness)


@pytest.mark.parametrize("media_type", ["", None])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_child_without_a_type_that_is_no_manifest_is_a_blob_or_left_out(
    harness: Harness, media_type: str | None, *, is_there: bool
) -> None:
    if is_there:
        harness.registry.put_blob("team/app", Digest.of(SBOM), SBOM)
    job = mirrored(harness, index_of(described(SBOM, media_type)))
    assert report(harness, job, Digest.of(SBOM)).state == ("copied" if is_there else "skipped")
    assert_pullable(harness)


@pytest.mark.parametrize(
    ("stated", "body"),
    [
        (media_types.OCI_MANIFEST, {"schemaVersion": 2, "mediaType": "application/vnd.oci.artifact.manifest.v1+json"}),
        (media_types.DOCKER_MANIFEST, {"schemaVersion": 1, "fsLayers": [], "history": []}),
        (media_types.DOCKER_SCHEMA_1_SIGNED, {"schemaVersion": 1, "fsLayers": [], "history": []}),
    ],
)
def test_a_child_whose_body_is_of_an_unknown_kind_is_left_out_and_never_written_as_a_manifest(
    harness: Harness, stated: str, body: dict[str, Any]
) -> None:
    """Written as a manifest it would make a stock registry answer 500, and end its garbage collection."""
    content = json.dumps(body).encode()
    serve(harness, content, stated)
    job = mirrored(harness, index_of(described(content, stated)))
    assert report(harness, job, Digest.of(content)).state == "skipped"
    assert layout.revision_link_key("prod/app", Digest.of(content)) not in harness.stored()
    assert_pullable(harness)


def test_a_child_that_is_served_under_an_odd_content_type_is_what_its_digest_says(harness: Harness) -> None:
    """As a web server with files does it. The type of the root is in its body."""
    harness.registry.script(faults.faulty(faults.header("Content-Type", "application/octet-stream")))
    mirrored(harness, index_of())
    assert_pullable(harness)


def test_a_damaged_child_fails_the_image(harness: Harness) -> None:
    content = b'{"schemaVersion": 2, "config": {}}'
    serve(harness, content, media_types.OCI_MANIFEST)
    harness.registry.put(index_of(described(content, media_types.OCI_MANIFEST)), "team/app", "1")
    error = harness.mirror("team/app:1").error
    assert error is not None
    assert error.code == "MANIFEST_INVALID"


def test_a_build_caches_blobs_are_needed(harness: Harness) -> None:
    content = images.layer("cached").content
    harness.registry.put(index_of(described(content, images.OCI_LAYER)), "team/app", "1")
    error = harness.mirror("team/app:1").error
    assert error is not None
    assert error.code == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": None}, media_types.OCI_INDEX),
        ({"schemaVersion": 2, "mediaType": media_types.DOCKER_LIST, "manifests": None}, media_types.DOCKER_LIST),
        ({"schemaVersion": 2, "manifests": None}, media_types.OCI_INDEX),
        ({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": None}, ""),
    ],
)
def test_no_children_may_be_written_as_null(harness: Harness, body: dict[str, Any], content_type: str) -> None:
    mirrored(harness, images.TestImage(json.dumps(body).encode(), content_type))
    assert harness.core.reader.image(TARGET).manifests[0].parsed.blobs == ()


def inline(content: bytes, entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "data": base64.b64encode(content).decode()}


def with_inline(image: images.TestImage, change: bytes = b"") -> images.TestImage:
    """The image with all its blobs in its descriptors, *change* at the end of each, and none at the registry."""
    document = json.loads(image.body)
    entries = [document["config"], *document["layers"]]
    for entry in entries:
        entry.update(inline(image.blobs[Digest.parse(entry["digest"])] + change, entry))
    return images.TestImage(json.dumps(document).encode(), image.media_type)


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_blob_that_cannot_be_read_is_taken_from_its_descriptor(harness: Harness, status: int) -> None:
    harness.registry.script(faults.faulty(faults.status(status), path="/blobs/"))
    image = images.image(images.layer("a"), images.layer("b"))
    job = mirrored(harness, with_inline(image))
    for digest, content in image.blobs.items():
        assert report(harness, job, digest).state == "copied"
        assert served_size(harness, digest) == len(content)
    assert harness.bucket.uploads.list_open("") == []


@pytest.mark.parametrize("change", [b"x", None])
def test_what_a_descriptor_carries_is_used_only_if_it_is_what_it_describes(
    harness: Harness, change: bytes | None
) -> None:
    image = with_inline(images.image(images.layer("a")), change or b"")
    if change is None:
        body = image.body.replace(b'"data": "', b'"data": "*')
        image = images.TestImage(body, image.media_type)
    harness.registry.put(image, "team/app", "1")
    error = harness.mirror("team/app:1").error
    assert error is not None
    assert error.code == "BLOB_UNKNOWN"


def test_what_a_descriptor_carries_is_not_used_while_the_source_serves_it(harness: Harness) -> None:
    image = images.image(images.layer("a"))
    for digest, content in image.blobs.items():
        harness.registry.put_blob("team/app", digest, content)
    mirrored(harness, with_inline(image))
    assert len(harness.registry.log(path="/blobs/")) == len(image.blobs)


@pytest.mark.parametrize("limit", [None, 10])
def test_a_child_that_cannot_be_read_is_taken_from_its_descriptor(harness: Harness, limit: int | None) -> None:
    if limit:
        harness.registry.script(PullLimit(limit, window=600))
    child = images.image(images.layer("child"))
    harness.registry.put(child, "team/app")
    harness.registry.script(faults.faulty(faults.status(404), path=f"/manifests/{child.digest}"))
    mirrored(harness, index_of(inline(child.body, described(child.body, media_types.OCI_MANIFEST))))
    assert harness.core.reader.manifest(LocalImage("prod/app", digest=child.digest)).body == child.body


def configured(media_type: str, config: bytes, **fields: Any) -> images.TestImage:
    image = images.image(images.layer("a"))
    document = {**json.loads(image.body), "config": described(config, media_type), **fields}
    return images.TestImage(json.dumps(document).encode(), image.media_type, {**image.blobs, Digest.of(config): config})


ODD = "application/vnd.example.container.config+json"
CONFIG = b'{"os": "linux", "architecture": "riscv64", "variant": "v1"}'


@pytest.mark.parametrize(
    ("image", "platforms"),
    [
        (configured(ODD, CONFIG), ("linux/riscv64/v1",)),
        (configured("text/plain", CONFIG), ("linux/riscv64/v1",)),
        (configured("application/vnd.cncf.helm.config.v1+json", b'{"name": "chart", "version": "1"}'), ()),
        (configured(ODD, b'{"os": ["linux"], "architecture": 7}'), ()),
        (configured(ODD, b'{"os": "' + b"x" * 300 + b'", "architecture": "amd64"}'), ()),
        (configured(ODD, b"[" * 100_000), ()),
        (configured(ODD, b"\xff\xfe not JSON"), ()),
        (configured(ODD, CONFIG, artifactType="application/vnd.example.artifact"), ()),
        (configured(images.EMPTY_CONFIG, CONFIG), ()),
    ],
)
def test_a_config_of_an_odd_type_shows_its_platform_if_it_names_one(
    harness: Harness, image: images.TestImage, platforms: tuple[str, ...]
) -> None:
    mirrored(harness, image)
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert entry.platforms == platforms
    assert tuple(map(str, harness.core.reader.inspect(TARGET).platforms)) == platforms


def test_an_index_lists_only_the_platforms_that_it_holds(harness: Harness) -> None:
    content = json.dumps({"schemaVersion": 1, "fsLayers": []}).encode()
    serve(harness, content, media_types.DOCKER_MANIFEST)
    platform = {"os": "linux", "architecture": "s390x"}
    mirrored(harness, index_of(described(content, media_types.DOCKER_MANIFEST, platform=platform)))
    entry = harness.core.index.entry("prod/app", "1")
    assert entry is not None
    assert entry.platforms == ("linux/amd64",)
    assert tuple(map(str, harness.core.reader.inspect(TARGET).platforms)) == ("linux/amd64",)


def test_a_registry_that_is_down_leaves_no_entry_out(harness: Harness) -> None:
    """Its index is complete once it is back."""
    harness.registry.put_blob("team/app", Digest.of(SBOM), SBOM)
    harness.registry.put(index_of(described(SBOM, SBOM_TYPE)), "team/app", "1")

    def down(request: Request, _: Reply) -> Reply | None:
        return Reply(429, {"Retry-After": "60"}) if f"/blobs/{Digest.of(SBOM)}" in request.path else None

    harness.registry.script(down)
    job = harness.mirror("team/app:1", str(TARGET))
    assert (job.state, harness.core.links.current("prod/app", "1")) == ("queued", None)


@pytest.mark.parametrize(
    "other",
    [described(SBOM, SBOM_TYPE), described(b"nowhere", SBOM_TYPE), described(AMD64.body, None), described(b"{}", "")],
    ids=["blob", "left out", "manifest without a type", "blob without a type"],
)
def test_an_index_that_is_rebuilt_lists_them_as_before(harness: Harness, other: dict[str, Any]) -> None:
    harness.registry.put_blob("team/app", Digest.of(SBOM), SBOM)
    harness.registry.put_blob("team/app", Digest.of(b"{}"), b"{}")
    mirrored(harness, index_of(other, children=(images.image(images.layer("arm64"), platform="linux/arm64"), AMD64)))
    before = harness.core.index.entry("prod/app", "1")
    harness.redis.call("FLUSHALL")
    assert harness.core.rebuilder.rebuild(lambda: True)
    assert before is not None
    assert harness.core.index.entry("prod/app", "1") == before


@pytest.mark.docker_registry
def test_a_stock_registry_serves_them_all(
    harness: Harness, rclone_s3: RcloneS3, s3_prefix: str, tmp_path: Path
) -> None:
    """Indexes with entries that are blobs, are missing, have no type or are of a kind it does not know."""
    harness.registry.put_blob("team/app", Digest.of(SBOM), SBOM)
    untyped, schema_1 = images.image(images.layer("untyped")), b'{"schemaVersion": 1, "fsLayers": [], "history": []}'
    harness.registry.put(untyped, "team/app")
    serve(harness, schema_1, media_types.DOCKER_MANIFEST)
    served = {
        "blob": index_of(described(SBOM, SBOM_TYPE)),
        "left-out": index_of(described(b"nowhere", SBOM_TYPE)),
        "untyped": index_of(described(untyped.body, None)),
        "schema-1": index_of(described(schema_1, media_types.DOCKER_MANIFEST)),
    }
    for tag, image in served.items():
        harness.registry.put(image, "team/app", tag)
        assert harness.mirror(f"team/app:{tag}", f"prod/app:{tag}").state == "succeeded"
    children = [str(AMD64.digest), str(untyped.digest)]
    with DockerRegistry(tmp_path, S3Storage(rclone_s3, s3_prefix)) as stock, urllib3.PoolManager(retries=False) as pool:
        url, accept = f"{stock.url}/v2/prod/app", {"Accept": ", ".join(media_types.ACCEPTED)}
        for tag, image in served.items():
            answer = pool.request("GET", f"{url}/manifests/{tag}", headers=accept)
            assert (answer.status, answer.data) == (200, image.body)
        for child in children:
            assert pool.request("GET", f"{url}/manifests/{child}", headers=accept).status == 200
        assert pool.request("GET", f"{url}/blobs/{Digest.of(SBOM)}").data == SBOM
