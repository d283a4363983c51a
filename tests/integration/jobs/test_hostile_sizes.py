"""A manifest whose sizes are made to overflow: its job fails in words, can be retried, and harms no other."""

from __future__ import annotations

import json

import pytest

from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE
from mirror.oci.digest import Digest
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def claiming(*sizes: float, seed: str = "") -> images.TestImage:
    """An image whose layers are said to have these sizes."""
    honest = images.image(images.layer(f"hostile{seed}"))
    document = json.loads(honest.body)
    for number, size in enumerate(sizes):
        digest = str(Digest.of(f"{seed}{number}".encode()))
        document["layers"].append({"mediaType": images.OCI_LAYER, "digest": digest, "size": size})
    return images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, honest.blobs)


@pytest.mark.parametrize(
    "image",
    [
        claiming(2**63 - 1),
        claiming(2**64),
        claiming(-1),
        claiming(1e300),
        claiming(MAX_SIZE // 2, MAX_SIZE // 2),
        images.index((None, images.index((None, claiming(MAX_SIZE - 10**5)))), (None, claiming(10**5, seed="b"))),
    ],
    ids=["63 bits", "64 bits", "negative", "float", "sum of layers", "sum below nested indexes"],
)
def test_a_size_out_of_bounds_fails_its_job_and_no_other(harness: Harness, image: images.TestImage) -> None:
    harness.registry.put(image, "team/hostile", "1")
    harness.registry.put(images.image(images.layer("honest")), "team/honest", "1")
    hostile, honest = harness.submit("team/hostile:1"), harness.submit("team/honest:1")
    for again in (False, True):
        if again:
            assert len(harness.jobs.retry(hostile.id)) == 1
        failed = harness.run_tasks(hostile)
        assert failed.error is not None
        assert (failed.state, failed.error.code) == ("failed", "SIZE_INVALID")
        assert str(MAX_SIZE) in failed.error.message
        assert failed.bytes.total >= 0
    assert harness.run_tasks(honest).state == "succeeded"
    assert harness.registry.log(path="/v2/team/hostile/blobs/") == []
