"""Manifests and tokens that arrive compressed, or as a web page."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from mirror.errors import AnswerTooLarge, SourceFailed
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Tokens
from tests.support.images import TestImage


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_manifest_is_read(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    compress: Callable[[bytes], bytes],
    *,
    chunked: bool,
) -> None:
    label = "gzip" if compress is gzip.compress else "deflate"
    encoded = faults.both(faults.body(compress(app.body)), faults.header("Content-Encoding", label))
    registry.script(faults.faulty(faults.both(encoded, faults.chunked()) if chunked else encoded))
    for asked in (reference, replace(reference, tag=None, digest=app.digest)):
        found = get_manifest(client, asked)
        assert (found.body, found.media_type, found.digest) == (app.body, app.media_type, app.digest)
        assert client.head_manifest(asked) == app.digest
    assert {request.headers["Accept-Encoding"] for request in registry.log()} == {"identity"}


def test_a_manifest_that_is_a_decompression_bomb_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    bomb = faults.both(
        faults.body(gzip.compress(bytes(4 * MAX_MANIFEST_SIZE))), faults.header("Content-Encoding", "gzip")
    )
    registry.script(faults.faulty(bomb))
    with pytest.raises(AnswerTooLarge):
        get_manifest(client, reference)


def test_a_compressed_token_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.tokens = Tokens()

    def compressed(reply: Reply) -> Reply:
        assert isinstance(reply.body, bytes)
        return replace(
            reply, body=gzip.compress(reply.body, mtime=0), headers={**reply.headers, "Content-Encoding": "gzip"}
        )

    registry.script(faults.faulty(compressed, server="token"))
    assert get_manifest(client, reference).body == app.body


@pytest.mark.parametrize("server", ["api", "token"])
def test_a_login_portal_is_reported_as_such(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, server: str
) -> None:
    registry.tokens = Tokens()
    page = Reply(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Welcome</title>")
    registry.script(faults.faulty(lambda _: page, server=server, method="GET"))
    with pytest.raises(SourceFailed, match="HTML page") as caught:
        get_manifest(client, reference)
    assert "login portal" in caught.value.hint
    assert len(registry.log(server, method="GET")) == 1


def test_a_manifest_that_is_labelled_as_html_is_read(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.script(faults.faulty(faults.header("Content-Type", "text/html")))
    assert get_manifest(client, reference).body == app.body
