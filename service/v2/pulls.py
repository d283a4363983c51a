"""Find what clients pull, with few requests to S3.

Each process remembers what cannot change, or what nothing takes away soon:

- Manifests, by digest. Their content never changes.
- Which repository has which manifest and blob, for five minutes. Of a manifest that was just read, the blobs are known
  without another request. Only what was found is remembered, never an absence.
  A collector that deletes a link must keep the manifest or blob for longer than `FOUND_SECONDS` after that.
- Presigned URLs, for some minutes (`mirror.storage.served_bucket`).

What a tag shows is not remembered. Redis is asked for every pull, and never has an older answer than the bucket
(`mirror.catalog.current_tags`). S3 is asked where Redis does not know the tag, or does not respond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from threading import BoundedSemaphore, Lock
from time import monotonic
from typing import Final, TypeVar

from cachetools import TTLCache

from mirror.catalog.current_tags import CurrentTags, KnownTag
from mirror.catalog.reader import checked_manifest
from mirror.errors import BlobNotHeld, ImageNotHeld, RedisUnavailable, StorageDamaged
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Manifest, parse_manifest
from mirror.storage import layout
from mirror.storage.blobs import BlobStore
from mirror.storage.links import LinkStore
from mirror.storage.served_bucket import ServedBucket
from service.http.connections import in_thread
from service.v2.manifest_cache import Body, Described, ManifestCache

FOUND_SECONDS: Final = 5 * 60
"""Seconds for which a found link is believed without another request to S3. A client may use a presigned URL for longer
than that, so bytes must outlive their links by more anyway."""
_MOST_FOUND: Final = 50_000
"""Links that one process remembers, of about 400 bytes each."""
S3_REQUESTS: Final = 32
"""Pulls of one process that ask S3 at the same time. With no limit, a thousand concurrent pulls would all end late."""
_REDIS_REQUESTS: Final = 16
_WITHOUT_REDIS: Final = 2.0
"""Seconds for which Redis is not asked after it failed."""
_LARGE: Final = 128 * 1024
"""Bytes of a manifest that takes more than about 5 ms to parse."""

T = TypeVar("T")
_Found = TTLCache[tuple[str, Digest], T]
Check = Callable[[bytes, Digest], ManifestContent]
"""Parses a manifest and checks its digest, as `checked_manifest` does."""


def checked_in_thread(body: bytes, digest: Digest) -> ManifestContent:
    """Check a manifest, a large one in a real thread."""
    check = checked_manifest if len(body) < _LARGE else in_thread(checked_manifest)
    return check(body, digest)


class Pulls:
    """Looks up manifests and blobs of repositories. Safe to share between threads.

    Where a method takes several repositories, they are the ones that a request may mean, in order. Every method raises
    StorageUnavailable or StorageRefused.
    """

    def __init__(
        self,
        tags: CurrentTags,
        bucket: ServedBucket,
        manifests: ManifestCache,
        check: Check = checked_manifest,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._tags = tags
        self.blobs = BlobStore(bucket)
        self._bucket = bucket
        self._links = LinkStore(bucket)
        self._manifests = manifests
        self._check = check
        self._clock = clock
        self._redis_requests = BoundedSemaphore(_REDIS_REQUESTS)
        self._redis_failed_at = -inf
        self.s3_requests = BoundedSemaphore(S3_REQUESTS)
        self._revisions: _Found[bool] = TTLCache(_MOST_FOUND, FOUND_SECONDS, clock)
        self._blob_sizes: _Found[int] = TTLCache(_MOST_FOUND, FOUND_SECONDS, clock)
        self._read_in: _Found[bool] = TTLCache(_MOST_FOUND, FOUND_SECONDS, clock)
        self._lock = Lock()

    def tagged(self, repositories: Sequence[str], tag: str) -> tuple[str, Digest]:
        """Return the first repository that has the tag, and the manifest that it shows. Raises ImageNotHeld."""
        repository, digest = self.shown(repositories, tag)
        if not self._has_revision(repository, digest):
            raise ImageNotHeld(str(LocalImage(repositories[0], tag)))
        return repository, digest

    def shown(self, repositories: Sequence[str], tag: str) -> tuple[str, Digest]:
        """Return the first repository that has the tag, and what it shows, which may be lost. Raises ImageNotHeld."""
        known = self._known(repositories, tag)
        read_from_s3: list[tuple[KnownTag, str, Digest | None]] = []
        for position, repository in enumerate(repositories):
            of_redis = known[position] if known else None
            if of_redis and of_redis.is_absent:
                continue
            digest = of_redis.digest if of_redis else None
            if digest is None:
                with self.s3_requests:
                    digest = self._links.current(repository, tag)
                if of_redis:
                    read_from_s3.append((of_redis, repository, digest))
            if digest is not None:
                # An absence is kept only of a tag that another repository has. Otherwise a client could fill Redis.
                with suppress(RedisUnavailable), self._redis_requests:
                    for before, place, shown in read_from_s3:
                        self._tags.keep(before, place, tag, shown)
                return repository, digest
        raise ImageNotHeld(str(LocalImage(repositories[0], tag)))

    def repository_of_manifest(self, repositories: Sequence[str], digest: Digest) -> str:
        """Return a repository that has the manifest. Raises ImageNotHeld."""
        for repository in self._remembered_first(self._revisions, repositories, digest):
            if self._has_revision(repository, digest):
                return repository
        raise ImageNotHeld.of_digest(str(LocalImage(repositories[0], digest=digest)))

    def is_known(self, repositories: Sequence[str], digest: Digest) -> bool:
        """Whether one of the repositories is known to link the blob. Sends no request."""
        with self._lock:
            return any((repository, digest) in self._blob_sizes for repository in repositories)

    def blob(self, repositories: Sequence[str], digest: Digest) -> tuple[str, int]:
        """Return a repository that links the blob, and the blob's size in bytes. Raises BlobNotHeld."""
        for repository in self._remembered_first(self._blob_sizes, repositories, digest):
            size = self._blob_size(repository, digest)
            if size is not None:
                return repository, size
        raise BlobNotHeld(repositories[0], str(digest))

    def described(self, name: LocalImage, digest: Digest) -> Described:
        """Return the type and size of a manifest. Raises ImageNotHeld, which says *name*, or StorageDamaged."""
        return self._manifests.described(digest) or self.content(name, digest)[0]

    def content(self, name: LocalImage, digest: Digest) -> tuple[Described, Body]:
        """Return the description and the body of a manifest. Raises as `described` does.

        Bytes from the bucket are always hashed. They are parsed only if their type is not known. Of many pulls of one
        manifest at once, one reads it, so that not each of them holds a copy.
        """
        held = self._manifests.held(digest)
        if held is None:
            with self._manifests.reading(digest):
                held = self._manifests.held(digest) or self._read(name, digest)
        self._remember_blobs(name.repository, digest, held[1].content)
        return held

    def _read(self, name: LocalImage, digest: Digest) -> tuple[Described, Body]:
        """Read a manifest from the bucket into the cache."""
        described = self._manifests.described(digest)
        with self.s3_requests:
            content = self.blobs.read(digest, MAX_MANIFEST_SIZE)
        if content is None:
            raise ImageNotHeld(str(name))
        if described is None:
            descriptor = self._check(content, digest).descriptor
            described = Described(descriptor.media_type, descriptor.size)
        elif Digest.of(content, digest.algorithm) != digest:
            raise StorageDamaged(str(digest), "its bytes have another digest")
        return described, self._manifests.put(digest, described, content)

    def url(self, digest: Digest) -> str:
        """Return a presigned URL that reads a blob. The caller knows that a repository may serve it."""
        return self._bucket.presigned_url(layout.blob_key(digest))

    def _known(self, repositories: Sequence[str], tag: str) -> list[KnownTag]:
        """Return what Redis knows of the tag in each repository, nothing if Redis fails, or failed just now."""
        if self._clock() - self._redis_failed_at < _WITHOUT_REDIS:
            return []
        try:
            with self._redis_requests:
                return self._tags.read(repositories, tag)
        except RedisUnavailable:
            self._redis_failed_at = self._clock()
            return []

    def _has_revision(self, repository: str, digest: Digest) -> bool:
        with self._lock:
            if self._revisions.get((repository, digest)):
                return True
        with self.s3_requests:
            is_held = self._links.has_revision(repository, digest)
        if is_held:
            with self._lock:
                self._revisions[repository, digest] = True
        return is_held

    def _blob_size(self, repository: str, digest: Digest) -> int | None:
        with self._lock:
            size = self._blob_sizes.get((repository, digest))
        if size is not None:
            return size
        with self.s3_requests:
            size = self.blobs.held(digest) if self._links.has_layer(repository, digest) else None
        if size is not None:
            with self._lock:
                self._blob_sizes[repository, digest] = size
        return size

    def _remember_blobs(self, repository: str, digest: Digest, content: bytes) -> None:
        """Remember that the repository, which has this manifest, links its blobs. So their pulls ask S3 for nothing.

        Every publisher links the config and the layers before the manifest, except foreign layers that it left out.
        """
        with self._lock:
            if len(content) > _LARGE or (repository, digest) in self._read_in:
                return
            self._read_in[repository, digest] = True
        manifest = parse_manifest(content, None, what=str(digest))
        if isinstance(manifest, Manifest):
            sizes = {(repository, blob.digest): blob.size for blob in manifest.blobs if not blob.is_foreign_layer}
            with self._lock:
                self._blob_sizes.update(sizes)

    def _remembered_first(self, found: _Found[T], repositories: Sequence[str], digest: Digest) -> Sequence[str]:
        """Return the repositories, those first that are known to have *digest*. The content is the same in each."""
        if len(repositories) == 1:
            return repositories
        with self._lock:
            return sorted(repositories, key=lambda repository: (repository, digest) not in found)
