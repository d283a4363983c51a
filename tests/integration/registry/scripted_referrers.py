"""The referrers API of a scripted registry, and a list that must fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURES = [f"a signature {n}".encode() for n in range(5)]
NO_API = {
    "404": faults.status(404, body=b"404 page not found\n"),
    "404 with a code": faults.status(404, body=b'{"errors":[{"code":"NOT_FOUND","message":"page not found"}]}'),
    "404 with a body that is no error": faults.status(404, body=b'{"errors": 7}'),
    "405": faults.status(405),
    "406": faults.status(406, body=b'{"errors":[{"status":406,"message":"Not Acceptable"}]}'),
    "501": faults.status(501),
    "a web page": faults.status(200, body=b"<!DOCTYPE html><html></html>", Content_Type="text/html"),
    "a web page without a label": faults.status(200, body=b"\n <html>log in</html>"),
}
FOR_THIS_SUBJECT = {
    "400": faults.status(400),
    "400 from Quay": faults.status(400, body=b'{"errors":[{"code":"MANIFEST_INVALID"}]}'),
    "404 for the subject": faults.status(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'),
    "404 for the repository": faults.status(404, body=b'{"errors":[{"code":"NAME_UNKNOWN"}]}'),
}
HINT = '"referrers": false'


def entry(number: int = 0, **fields: Any) -> dict[str, Any]:
    content = f"entry {number}".encode()
    found = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(content)), "size": len(content), "artifactType": BUNDLE}
    return found | fields


def listed(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def serve(registry: FakeRegistry, *bodies: bytes, link: Callable[[int], str] = lambda _: "") -> None:
    """Serve one page of the API after the other, with the Link that *link* returns for the number of the page."""
    pages = count()

    def script(request: Request, _: Reply) -> Reply | None:
        if "/referrers/" not in request.path:
            return None
        number = next(pages)
        return Reply(200, {"Content-Type": OCI_INDEX, "Link": link(number)}, bodies[min(number, len(bodies) - 1)])

    registry.script(script)


def asked(registry: FakeRegistry) -> int:
    return len(registry.log(path="/referrers/"))


def failure(client: RegistryClient, subject: Reference) -> MirrorError:
    with pytest.raises(MirrorError) as caught:
        client.referrers(subject)
    return caught.value
