"""Manifests: exact bytes, checked digests, and a limited size."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    DigestMismatch,
    ManifestUnknown,
    SizeInvalid,
    SourceError,
    SourceFailed,
    SourceUnreachable,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry
from tests.support.images import TestImage

WRONG = Digest.of(b"something else")


def _by_digest(reference: Reference, app: TestImage) -> Reference:
    return replace(reference, tag=None, digest=app.digest)


def test_a_manifest_is_read_byte_for_byte(client: RegistryClient, reference: Reference, app: TestImage) -> None:
    found = get_manifest(client, reference)
    assert (found.body, found.media_type, found.digest) == (app.body, app.media_type, app.digest)
    assert get_manifest(client, _by_digest(reference, app)) == found


def test_a_head_returns_the_digest_without_the_manifest(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    assert client.head_manifest(reference) == app.digest
    assert [request.method for request in registry.log()] == ["HEAD"]


def test_requests_reuse_one_connection(client: RegistryClient, registry: FakeRegistry, reference: Reference) -> None:
    for _ in range(3):
        client.head_manifest(reference)
        get_manifest(client, reference)
    assert registry.connections["api"] == 1


@pytest.mark.parametrize("change", [faults.header("Docker-Content-Digest", None), faults.status(405)])
def test_a_head_without_a_digest_returns_none(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change, method="HEAD"))
    assert client.head_manifest(reference) is None


def test_a_manifest_without_a_digest_header_gets_the_digest_of_its_bytes(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.header("Docker-Content-Digest", None)))
    assert get_manifest(client, reference).digest == app.digest


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, None),
        ("", None),
        ("application/json; charset=utf-8", "application/json"),
        ("Application/Vnd.OCI.image.index.v1+json", "application/vnd.oci.image.index.v1+json"),
    ],
)
def test_the_media_type_comes_without_parameters(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, sent: str | None, expected: str | None
) -> None:
    registry.script(faults.faulty(faults.header("Content-Type", sent)))
    assert get_manifest(client, reference).media_type == expected


def test_a_sha512_digest_is_checked_as_such(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    digest = Digest.of(app.body, "sha512")
    registry.script(faults.faulty(faults.both(faults.body(app.body), lambda reply: replace(reply, status=200))))
    found = get_manifest(client, replace(reference, digest=digest))
    assert found.digest == digest


@pytest.mark.parametrize("by_digest", [False, True])
def test_one_wrong_bit_is_detected(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, *, by_digest: bool
) -> None:
    registry.script(faults.faulty(faults.wrong_byte(20)))
    with pytest.raises(DigestMismatch):
        get_manifest(client, _by_digest(reference, app) if by_digest else reference)


@pytest.mark.parametrize("by_digest", [False, True])
def test_a_wrong_docker_content_digest_is_detected(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, *, by_digest: bool
) -> None:
    registry.script(faults.faulty(faults.header("Docker-Content-Digest", str(WRONG))))
    with pytest.raises(DigestMismatch):
        get_manifest(client, _by_digest(reference, app) if by_digest else reference)


def test_an_expected_descriptor_is_checked(client: RegistryClient, reference: Reference, app: TestImage) -> None:
    expected = Descriptor(app.media_type, app.digest, len(app.body))
    assert get_manifest(client, reference, expect=expected).body == app.body
    with pytest.raises(SizeInvalid):
        get_manifest(client, reference, expect=replace(expected, size=len(app.body) + 1))
    with pytest.raises(DigestMismatch):
        get_manifest(client, reference, expect=replace(expected, digest=WRONG))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ManifestUnknown),
        (403, Denied),
        (400, SourceFailed),
        (204, SourceFailed),
        (206, SourceFailed),
        (304, SourceFailed),
        (418, SourceFailed),
        (500, SourceFailed),
    ],
)
def test_a_status_becomes_an_error(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, status: int, error: type[SourceError]
) -> None:
    registry.script(faults.faulty(faults.status(status)))
    with pytest.raises(error):
        get_manifest(client, reference)


def test_a_manifest_of_four_mebibytes_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(_body_alone(b" " * MAX_MANIFEST_SIZE)))
    assert len(get_manifest(client, reference).body) == MAX_MANIFEST_SIZE


def test_a_larger_manifest_is_refused_before_it_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.header("Content-Length", str(2**40))))
    with pytest.raises(AnswerTooLarge):
        get_manifest(client, reference)


def test_an_endless_manifest_is_refused_at_the_size_limit(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    sent = itertools.count()
    registry.script(faults.faulty(faults.body(b"x" * 65536 for _ in sent)))
    with pytest.raises(AnswerTooLarge):
        get_manifest(client, reference)
    assert next(sent) < 2 * MAX_MANIFEST_SIZE / 65536 + 200  # what the sockets' own buffers hold came on top


def test_a_chunked_manifest_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.chunked()))
    assert get_manifest(client, reference).body == app.body


@pytest.mark.parametrize("change", [faults.cut_after(10), faults.both(faults.chunked(), faults.cut_after(10))])
def test_a_truncated_manifest_is_distinguished_from_a_short_one(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, change: faults.Change
) -> None:
    registry.script(faults.faulty(change))
    with pytest.raises(AnswerTruncated):
        get_manifest(client, reference)


def test_a_connection_that_is_reset_is_unreachable(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    registry.script(faults.faulty(faults.reset_after(10)))
    with pytest.raises((SourceUnreachable, AnswerTruncated)):
        get_manifest(client, reference)


def _body_alone(content: bytes) -> faults.Change:
    return faults.both(faults.body(content), faults.header("Docker-Content-Digest", None))
