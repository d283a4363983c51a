"""Repositories as cosign, notation, ORAS, BuildKit and Helm wrote them.

They are in the folder fixtures/artifacts, whose ``make.sh`` writes them. A repository is one JSON document: its tags,
its manifests in an order in which a registry accepts them, and its blobs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import urllib3

from mirror.oci.digest import Digest
from tests.support.fakes.registry import FakeRegistry
from tests.support.images import TestImage, push_blob, push_manifest

FOLDER: Final = Path(__file__).parent / "fixtures" / "artifacts"


@dataclass(frozen=True, slots=True)
class StoredRepository:
    """The content of a repository. Each manifest is byte for byte what the tool pushed."""

    tags: Mapping[str, Digest]
    manifests: Mapping[Digest, TestImage] = field(repr=False)
    blobs: Mapping[Digest, bytes] = field(repr=False)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read the repository *name* of the fixtures."""
        document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        blobs = {Digest.parse(digest): _content(blob) for digest, blob in document["blobs"].items()}
        manifests = [TestImage(entry["body"].encode(), entry["mediaType"]) for entry in document["manifests"]]
        tags = {tag: Digest.parse(digest) for tag, digest in document["tags"].items()}
        return cls(tags, {manifest.digest: manifest for manifest in manifests}, blobs)

    def dump(self) -> str:
        """Return the JSON document that `load` reads."""
        document = {
            "tags": {tag: str(digest) for tag, digest in self.tags.items()},
            "manifests": [
                {"digest": str(digest), "mediaType": manifest.media_type, "body": manifest.body.decode()}
                for digest, manifest in self.manifests.items()
            ],
            "blobs": {str(digest): _stored(content) for digest, content in self.blobs.items()},
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def document(self, digest: Digest) -> dict[str, Any]:
        """Return a manifest as JSON."""
        found: dict[str, Any] = json.loads(self.manifests[digest].body)
        return found

    def children(self, digest: Digest) -> list[Digest]:
        """Return the entries of an index. A manifest has none."""
        return [Digest.parse(entry["digest"]) for entry in self.document(digest).get("manifests", ())]

    def referrers(self, subject: Digest) -> list[Digest]:
        """Return the manifests whose subject this is."""
        named = {digest: (self.document(digest).get("subject") or {}).get("digest") for digest in self.manifests}
        return [digest for digest, found in named.items() if found == str(subject)]

    def blobs_of(self, digest: Digest) -> dict[Digest, bytes]:
        """Return the config and the layers of a manifest."""
        document = self.document(digest)
        entries = [*filter(None, [document.get("config")]), *(document.get("layers") or ())]
        named = [Digest.parse(entry["digest"]) for entry in entries]
        return {one: self.blobs[one] for one in named}

    def put_into(self, registry: FakeRegistry, repository: str) -> None:
        """Store everything in a scripted registry."""
        for digest, content in self.blobs.items():
            registry.put_blob(repository, digest, content)
        for manifest in self.manifests.values():
            registry.put(manifest, repository)
        for tag, digest in self.tags.items():
            registry.put(self.manifests[digest], repository, tag)

    def push_to(self, registry_url: str, repository: str) -> None:
        """Push everything into a real registry over plain HTTP."""
        base = f"{registry_url}/v2/{repository}"
        with urllib3.PoolManager(retries=False) as pool:
            for digest, content in self.blobs.items():
                push_blob(pool, base, digest, content)
            for digest, manifest in self.manifests.items():
                push_manifest(pool, base, str(digest), manifest)
            for tag, digest in self.tags.items():
                push_manifest(pool, base, tag, self.manifests[digest])


def _content(blob: Mapping[str, str]) -> bytes:
    return blob["text"].encode() if "text" in blob else base64.b64decode(blob["base64"])


def _stored(content: bytes) -> dict[str, str]:
    """Return text as it is, so that a person can read it."""
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}
