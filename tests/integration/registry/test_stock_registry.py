"""The client against CNCF distribution's own registry."""

from __future__ import annotations

import pytest

from mirror.errors import ManifestUnknown
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.oci.referrer import fallback_tag
from tests.integration.registry.conftest import MakeClient, get_manifest
from tests.support.images import artifact, image, index, layer, push, three_platforms
from tests.support.servers import DockerRegistry

pytestmark = pytest.mark.docker_registry

SIGNED = image(layer("signed", compressed=True), docker=True)
IMAGES = {
    "schema2": SIGNED,
    "oci": image(layer("oci", compressed=True), stated=False),
    "index": three_platforms("stock"),
    "list": index(("linux/amd64", SIGNED), docker=True),
    "nested": index((None, three_platforms("inner")), ("linux/s390x", image(layer("outer"), platform="linux/s390x"))),
    "artifact": artifact("application/vnd.example.signature", b"a signature", subject=SIGNED),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_is_read_byte_for_byte(
    docker_registry: DockerRegistry, client_of: MakeClient, kind: str
) -> None:
    pushed, repository = IMAGES[kind], f"registry-client/{kind}"
    push(pushed, docker_registry.url, repository, "1")
    client = client_of(insecure_registries=frozenset({docker_registry.host}))
    reference = Reference.parse(f"{docker_registry.host}/{repository}:1")
    assert client.head_manifest(reference) == pushed.digest
    for manifest in pushed.all_manifests():
        by_digest = Reference(reference.registry, repository, None, manifest.digest)
        found = get_manifest(client, by_digest)
        assert (found.body, found.media_type) == (manifest.body, manifest.media_type)
    for digest, content in pushed.all_blobs().items():
        blob = Descriptor("application/octet-stream", digest, len(content))
        with client.open_blob(reference, blob, offset=1) as stream:
            buffer = memoryview(bytearray(blob.size))
            count = stream.readinto(buffer)
            assert (stream.start, bytes(buffer[:count])) == (1, content[1:])


def test_an_image_that_is_not_there_is_unknown(docker_registry: DockerRegistry, client_of: MakeClient) -> None:
    client = client_of(insecure_registries=frozenset({docker_registry.host}))
    with pytest.raises(ManifestUnknown):
        get_manifest(client, Reference.parse(f"{docker_registry.host}/registry-client/nothing:1"))


def test_its_referrers_are_found_by_their_tags(docker_registry: DockerRegistry, client_of: MakeClient) -> None:
    """It has no referrers API."""
    repository, signature = "registry-client/signed", IMAGES["artifact"]
    tag = f"{fallback_tag(SIGNED.digest)}.sig"
    push(SIGNED, docker_registry.url, repository, "1")
    push(signature, docker_registry.url, repository, tag)
    client = client_of(insecure_registries=frozenset({docker_registry.host}))
    subject = Reference(docker_registry.host, repository, None, SIGNED.digest)
    assert client.referrers(subject) is None
    assert client.referrer_tags(subject) == frozenset({tag})
    assert client.tag_digest(Reference(docker_registry.host, repository, tag)) == signature.digest
    assert client.tag_digest(Reference(docker_registry.host, repository, fallback_tag(SIGNED.digest))) is None
    assert client.referrer_tags(Reference(docker_registry.host, "registry-client/nobody", "1")) is None
