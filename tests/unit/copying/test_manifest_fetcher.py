"""What the manifests of an image cost of the memory budget."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mirror.copying.cancellation import Cancellation
from mirror.copying.manifest_fetcher import ManifestFetcher
from mirror.copying.memory import BLOB_BYTES, ManifestMemory, MemoryBudget
from mirror.copying.ports import ManifestReader
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.storage.blobs import ManifestStore
from tests.unit.oci.manifests import OCI_FOREIGN, OCI_LAYER, entry, oci_manifest

APP = Reference.parse("registry.example/team/app:1")


@dataclass
class _Source:
    """Serves one manifest, without a pull limit."""

    body: bytes

    def is_limited(self) -> bool:
        return False

    def get(self, _reference: Reference, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(body=self.body, media_type=media_types.OCI_MANIFEST, digest=Digest.of(self.body))


def held_for(layers: list[dict[str, Any]]) -> int:
    """Return the bytes that are counted for the layers of a manifest, beyond its own bytes and its config."""
    body = json.dumps(oci_manifest(layers=layers)).encode()
    memory = ManifestMemory(MemoryBudget(64 * 2**20), str(APP), Cancellation())
    source, held = cast("ManifestReader", _Source(body)), cast("ManifestStore", None)
    ManifestFetcher(APP, source, held, Cancellation(), memory).root(None)
    return memory.held - len(body) - BLOB_BYTES


@pytest.mark.parametrize(
    ("layers", "more"),
    [
        ([entry(OCI_LAYER)], 0),
        ([entry(OCI_LAYER, urls=["https://a.example/x"])], 0),
        ([entry(OCI_LAYER, data="YWJj")], 4),
        ([entry(OCI_FOREIGN, urls=["https://a.example/x", "ftp://b.example/x"])], 72 + len("https://a.example/x")),
    ],
)
def test_the_urls_and_the_content_of_layers_count_in_the_memory_budget(layers: list[dict[str, Any]], more: int) -> None:
    assert held_for(layers) == BLOB_BYTES + more
