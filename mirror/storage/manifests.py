"""Manifests that the bucket holds before their image is published, and which sources have served them."""

from __future__ import annotations

from mirror.errors import StorageDamaged
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.oci.verification import verify
from mirror.storage.blobs import BlobStore
from mirror.storage.bucket import Bucket
from mirror.storage.provenance import ProvenanceStore


class ManifestStore:
    """What is stored here is readable by nobody before a publisher links it. Safe to share between threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._blobs = BlobStore(bucket)
        self._provenance = ProvenanceStore(bucket)

    def read(self, digest: Digest) -> bytes | None:
        """The bytes of a manifest; None if they are not held, or are not what their digest says."""
        try:
            body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        except StorageDamaged:
            return None
        return body if body is not None and Digest.of(body, digest.algorithm) == digest else None

    def put(self, descriptor: Descriptor, body: bytes) -> None:
        """Store a manifest; raises DigestMismatch or SizeInvalid if *body* is another."""
        self._blobs.put(verify(body, descriptor), body)

    def note_served(self, reference: Reference, digest: Digest) -> None:
        """Record that the registry and repository of *reference* served the bytes of *digest*."""
        self._provenance.record_blob_source(digest, reference.registry, reference.repository)

    def was_served(self, reference: Reference, digest: Digest) -> bool:
        """Whether that was recorded before."""
        return self._provenance.has_blob_source(digest, reference.registry, reference.repository)
