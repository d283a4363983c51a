"""Manifests that cannot be mirrored: their error says what they are, and what to do."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.job import Job
from tests.support import images
from tests.support.fakes.registry import Reply, Request
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

PAYLOAD: Final = {
    "schemaVersion": 1,
    "name": "team/app",
    "tag": "1",
    "architecture": "amd64",
    "fsLayers": [{"blobSum": str(Digest.of(b"a layer"))}],
    "history": [{"v1Compatibility": json.dumps({"id": "1"})}],
}
UNSIGNED: Final = json.dumps(PAYLOAD, indent=3).encode()
SIGNED: Final = json.dumps({**PAYLOAD, "signatures": [{"protected": "e30", "signature": "e30"}]}, indent=3).encode()
DIGEST: Final = Digest.of(UNSIGNED)
"""The digest of the signed manifest, too: it excludes the signatures."""
TYPES: Final = (
    media_types.DOCKER_SCHEMA_1_SIGNED,
    media_types.DOCKER_SCHEMA_1,
    "application/json",
    "text/plain; charset=utf-8",
    None,
)


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source. Any S3 server will do."""
    return rclone_s3


def serve(harness: Harness, body: bytes, content_type: str | None, *, digest: Digest | None, head: bool = True) -> None:
    """Answer every request for a manifest of the repository so. Without *head* only GET works."""

    def reply(request: Request, _: Reply) -> Reply | None:
        if "/manifests/" not in request.path:
            return None
        if request.method == "HEAD" and not head:
            return Reply(405)
        headers = {"Content-Type": content_type, "Docker-Content-Digest": digest and str(digest)}
        return Reply(200, {name: value for name, value in headers.items() if value}, body)

    harness.registry.script(reply)


def failed(job: Job, code: str) -> tuple[str, str]:
    """Return message and hint of the job's error."""
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == (code, False)
    return job.error.message, job.error.hint


@pytest.mark.parametrize("head", [True, False], ids=["head works", "no head"])
@pytest.mark.parametrize("reference", ["team/app:1", f"team/app@{DIGEST}"], ids=["tag", "digest"])
@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("body", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_schema_1_is_refused_by_name(
    harness: Harness, body: bytes, content_type: str | None, reference: str, head: bool
) -> None:
    serve(harness, body, content_type, digest=DIGEST, head=head)
    message, hint = failed(harness.mirror(reference), "MEDIA_TYPE_UNSUPPORTED")
    assert "application/vnd.docker.distribution.manifest.v1+" in message
    assert f"{harness.registry.host}/{reference}" in message
    assert "skopeo copy --format v2s2" in hint
    assert [key for key in harness.stored() if "/repositories/" in key] == []


def test_a_body_that_only_resembles_schema_1_has_a_wrong_digest(harness: Harness) -> None:
    body = json.dumps({"schemaVersion": 2, "annotations": {"fsLayers": "no"}}).encode()
    serve(harness, body, media_types.OCI_MANIFEST, digest=DIGEST)
    failed(harness.mirror(f"team/app@{DIGEST}"), "DIGEST_MISMATCH")


@pytest.mark.parametrize("body", [b'{"fsLayers"', b'["fsLayers"]', b'{"fsLayers": ' + b"[" * 100_000], ids=str)
def test_damaged_bytes_that_name_a_field_of_schema_1_have_a_wrong_digest(harness: Harness, body: bytes) -> None:
    serve(harness, body, media_types.OCI_MANIFEST, digest=DIGEST)
    failed(harness.mirror(f"team/app@{DIGEST}"), "DIGEST_MISMATCH")


def index_with(entry: dict[str, Any]) -> images.TestImage:
    """An index of one ordinary image and *entry*."""
    index = images.index(("linux/amd64", images.image(images.layer("amd64"))))
    document = json.loads(index.body)
    document["manifests"].append(entry)
    return images.TestImage(json.dumps(document).encode(), index.media_type, children=index.children)


@pytest.mark.parametrize("media_type", sorted(media_types.SCHEMA_1))
def test_an_entry_of_an_index_with_the_type_of_schema_1_is_left_out_and_named(
    harness: Harness, media_type: str
) -> None:
    entry = {"mediaType": media_type, "digest": str(DIGEST), "size": len(SIGNED)}
    harness.registry.put(index_with(entry), "team/app", "1")
    job = harness.mirror("team/app:1", "prod/app:1")
    assert job.state == "succeeded"
    [task] = harness.jobs.tasks(job.id, 1)
    [left_out] = [blob for blob in harness.jobs.blobs_of([task.id])[0] if blob.state == "skipped"]
    assert (left_out.digest, left_out.code) == (str(DIGEST), "MEDIA_TYPE_UNSUPPORTED")
    assert left_out.reason is not None
    assert media_type in left_out.reason
    assert harness.registry.log(path=str(DIGEST)) == []


def test_a_manifest_that_another_entry_gives_the_type_of_schema_1_is_mirrored(harness: Harness) -> None:
    image = images.image(images.layer("amd64"))
    entry = {**image.descriptor, "mediaType": media_types.DOCKER_SCHEMA_1}
    harness.registry.put(index_with(entry), "team/app", "1")
    assert harness.mirror("team/app:1", "prod/app:1").state == "succeeded"
    held = harness.core.reader.image(LocalImage("prod/app", "1"))
    assert [one.descriptor.digest for one in held.manifests][:1] == [image.digest]


@pytest.mark.parametrize("stated", [media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST])
def test_schema_1_that_is_served_in_the_place_of_a_child_fails_the_job(harness: Harness, stated: str) -> None:
    """As from a registry that converts manifests. The child's own bytes may be fine, so it is not left out."""
    child = Digest.of(b"a manifest")
    harness.registry.put(index_with({"mediaType": stated, "digest": str(child), "size": 10}), "team/app", "1")
    headers = {"Content-Type": media_types.DOCKER_SCHEMA_1_SIGNED, "Docker-Content-Digest": str(DIGEST)}
    harness.registry.script(lambda request, _: Reply(200, headers, SIGNED) if str(child) in request.path else None)
    message, hint = failed(harness.mirror("team/app:1", "prod/app:1"), "MEDIA_TYPE_UNSUPPORTED")
    assert media_types.DOCKER_SCHEMA_1_SIGNED in message
    assert "skopeo" in hint


HELM: Final = b"apiVersion: v1\nentries:\n  nginx:\n  - version: 1.0.0\n"
ARTIFACT: Final = json.dumps({"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}).encode()
ORAS: Final = "application/vnd.cncf.oras.artifact.manifest.v1+json"
PAGE: Final = b"<!doctype html><html><title>Log in</title></html>"
TYPE_HINT: Final = "Push the content with a current tool"
PLACE_HINT: Final = "Something else than a manifest is served there"


@pytest.mark.parametrize(
    ("body", "content_type", "code", "hint"),
    [
        (ARTIFACT, "application/vnd.oci.artifact.manifest.v1+json", "MEDIA_TYPE_UNSUPPORTED", TYPE_HINT),
        (ARTIFACT, "application/json", "MEDIA_TYPE_UNSUPPORTED", TYPE_HINT),
        (b"{}", ORAS, "MEDIA_TYPE_UNSUPPORTED", TYPE_HINT),
        (b"{}", "application/vnd.example+json", "MEDIA_TYPE_UNSUPPORTED", TYPE_HINT),
        (HELM, "text/yaml", "MANIFEST_INVALID", PLACE_HINT),
        (HELM, "text/plain", "MANIFEST_INVALID", PLACE_HINT),
        (HELM, "application/octet-stream", "MANIFEST_INVALID", PLACE_HINT),
        (b"", None, "MANIFEST_INVALID", PLACE_HINT),
        (b'"a text"', "application/json", "MANIFEST_INVALID", PLACE_HINT),
        (b'{"errors": [{"code": "DENIED"}]}', "application/json", "MANIFEST_INVALID", PLACE_HINT),
        (PAGE, "text/html", "SOURCE_FAILED", "login"),
        (PAGE, media_types.OCI_MANIFEST, "SOURCE_FAILED", "login"),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_hint(
    harness: Harness, body: bytes, content_type: str | None, code: str, hint: str
) -> None:
    serve(harness, body, content_type, digest=None)
    job = harness.mirror("team/app:1")
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error.code, hint in job.error.hint) == (code, True), job.error
