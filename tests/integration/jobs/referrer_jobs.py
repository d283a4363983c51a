"""Jobs that mirror referrers: an index, what refers to it, and one image mirrored as a work horse does."""

from __future__ import annotations

import json

import pytest

from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.referrer import Referrer, fallback_tag, write_list
from mirror.records.job import Job
from mirror.records.job_request import ImageRequest
from mirror.records.rules import PLAIN_COPY, CopyOptions
from mirror.records.task import Task
from tests.support import images
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness, mark_built
from tests.support.images import TestImage
from tests.support.servers.s3 import RcloneS3

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE, SBOM = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/spdx+json"
INDEX = images.three_platforms("signed")
AMD64, ARM64, ARM = INDEX.children.values()
SIGNED = images.artifact(SIGNATURE, b"signature of the index", subject=INDEX)
SIGNED_CHILD = images.artifact(SIGNATURE, b"signature of a child", subject=AMD64)
BILL = images.artifact(SBOM, b"SBOM of the index", subject=INDEX)
SIGNED_BILL = images.artifact(SIGNATURE, b"signature of the SBOM", subject=BILL)
COSIGN = images.artifact(SIMPLE_SIGNING, b"payload")
TAG = "team/app:1"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source, or about what a retag adds. Any S3 server will do."""
    return rclone_s3


@pytest.fixture(params=["API", "fallback tags"])
def mirror(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """A mirror, and a registry with the index as team/app:1. It has the referrers API or not."""
    mark_built(harness.redis)
    harness.registry.referrers_api = request.param == "API"
    harness.registry.put(INDEX, "team/app", "1")
    return harness


def listing(*entries: TestImage) -> TestImage:
    """Make the index of a fallback tag, as a client writes it."""
    listed = []
    for entry in entries:
        document = json.loads(entry.body)
        descriptor = Descriptor(entry.media_type, entry.digest, len(entry.body))
        listed.append(Referrer(descriptor, document.get("artifactType") or document["config"]["mediaType"]))
    return TestImage(write_list(listed), media_types.OCI_INDEX, children={one.digest: one for one in entries})


def attach(registry: FakeRegistry, subject: TestImage, *referrers: TestImage) -> None:
    """Push all referrers of *subject*, as clients do: without the API also under the fallback tag."""
    for referrer in referrers:
        registry.put(referrer, "team/app")
    if not registry.referrers_api:
        registry.put(listing(*referrers), "team/app", fallback_tag(subject.digest))


def submitted(harness: Harness, options: CopyOptions = PLAIN_COPY, source: str = TAG, target: str = TAG) -> Job:
    job, _ = harness.core.submitter.submit([ImageRequest(f"{harness.registry.host}/{source}", target, options=options)])
    return job


def run(harness: Harness, options: CopyOptions = PLAIN_COPY, source: str = TAG, target: str = TAG) -> Task:
    """Mirror the image as a work horse does. Return its task."""
    job = harness.run_work_horses(submitted(harness, options, source, target))
    [task] = harness.jobs.tasks(job.id, 2)
    return task


def succeeded(task: Task) -> Task:
    assert (task.state, task.error) == ("succeeded", None)
    return task


def listed(harness: Harness, subject: TestImage, repository: str = "team/app") -> set[Digest]:
    return {one.digest for one in harness.core.referrer_lists.listed(repository, subject.digest)}


def is_held(harness: Harness, image: TestImage, repository: str = "team/app") -> bool:
    """Whether the mirror serves the manifest with all of its blobs."""
    held = harness.core.links.has_revision(repository, image.digest)
    return held and all(harness.core.links.has_layer(repository, digest) for digest in image.blobs)


def asked(harness: Harness) -> list[str]:
    """Return the requests since the last call, without blobs."""
    found = [f"{r.method} {r.path.partition('/v2/team/app/')[2]}" for r in list(harness.registry.requests)]
    harness.registry.requests.clear()
    return [one for one in found if "blobs/" not in one]
