"""What is wanted without a tag: an image mirrored by digest stays because of the object written here."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket


class KeptStore:
    """A truth, not an index: the garbage collector marks from it. Write it before the revision link."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def keep(self, repository: str, digest: Digest) -> None:
        self._bucket.put(layout.kept_key(repository, digest), str(digest).encode("ascii"))

    def unkeep(self, repository: str, digest: Digest) -> None:
        """No error if it is not kept."""
        self._bucket.delete([layout.kept_key(repository, digest)])

    def is_kept(self, repository: str, digest: Digest) -> bool:
        return self._bucket.size(layout.kept_key(repository, digest)) is not None

    def all(self) -> Iterator[tuple[str, Digest]]:
        """Repository and digest of everything kept."""
        for key in self._bucket.keys(layout.kept_prefix()):
            if found := layout.parse_kept(key):
                yield found
