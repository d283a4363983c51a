"""What a repository has: the link files of its layers, manifests and tags, and what is kept without a tag.

A stock registry reads the links. A link holds its digest and nothing else: with a newline at its end, CNCF distribution
2.8 returns 500.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, groupby
from time import monotonic
from typing import Final, NamedTuple

from mirror.errors import InvalidDigest, StorageDamaged
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket, ListedObject

_LONGEST_LINK: Final = 256
"""Bytes. The longest digest has 135."""
_READERS: Final = 8
_WRITTEN_TOGETHER: Final = timedelta(minutes=1)
_WORTH_A_PAGE: Final = 12
"""Tags that a page of a listing must show to be worth its price: a dozen GETs (S3 pricing)."""


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """The manifests that a repository has, and its tags, each with its digest. None: the link must be read for it."""

    name: str
    revisions: frozenset[Digest]
    tags: Mapping[str, Digest | None]


class _Link(NamedTuple):
    """A link in a listing. It has a *tag* for a tag, a *digest* for a revision, and both for a tag's history."""

    repository: str
    tag: str | None
    digest: Digest | None
    found: ListedObject


class LinkStore:
    """Every write is one PUT, atomic and idempotent. All methods may be called from several threads."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def link_layer(self, repository: str, digest: Digest) -> None:
        """Let *repository* serve the blob: a layer or a config."""
        self._write(layout.layer_link_key(repository, digest), digest)

    def has_layer(self, repository: str, digest: Digest) -> bool:
        return self._bucket.size(layout.layer_link_key(repository, digest)) is not None

    def link_revision(self, repository: str, digest: Digest) -> None:
        """Let *repository* serve the manifest or index. Each child and referrer needs a link of its own."""
        self._write(layout.revision_link_key(repository, digest), digest)

    def has_revision(self, repository: str, digest: Digest) -> bool:
        return self._bucket.size(layout.revision_link_key(repository, digest)) is not None

    def add_to_history(self, repository: str, tag: str, digest: Digest, *, timeout: float) -> None:
        """Record that the tag points, or is about to point, at *digest*.

        It is written as `set_current` writes: once, and over the connection that writes next.
        """
        self._write(layout.tag_history_key(repository, tag, digest), digest, timeout=timeout, retries=False)

    def set_current(self, repository: str, tag: str, digest: Digest, *, timeout: float) -> None:
        """Point the tag at *digest*: the one PUT that publishes an image.

        It is tried once and takes at most *timeout* seconds, so that it cannot happen after its lease expired. After
        StorageUnavailable it may have happened or not. `current` shows which.
        """
        self._write(layout.tag_current_key(repository, tag), digest, timeout=timeout, retries=False)

    def current(self, repository: str, tag: str, *, timeout: float | None = None) -> Digest | None:
        """Return what the tag points at, None if there is no such tag. Raises StorageDamaged if its link has no digest.

        With a *timeout* it is read as `set_current` writes: once, and over the connection that writes next.
        """
        key = layout.tag_current_key(repository, tag)
        content = self._bucket.read(key, _LONGEST_LINK, timeout=timeout, retries=timeout is None)
        return None if content is None else _digest_in(key, content)

    def matching(self, wanted: Mapping[tuple[str, str], Digest], *, timeout: float) -> set[tuple[str, str]]:
        """Return those (repository, tag) that point at the wanted digest.

        Many tags of one repository are looked for in the bucket's listing. The others are read link by link, as
        `current` reads. When *timeout* seconds have passed, the rest is not read and not returned.
        """
        until = monotonic() + timeout
        shown = self._shown_by_listings(wanted, timeout=timeout)

        def shows(name: tuple[str, str]) -> bool:
            try:
                return monotonic() < until and self.current(*name, timeout=timeout) == wanted[name]
            except StorageDamaged:
                return False

        left = [name for name in wanted if name not in shown]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="links") as pool:
            return shown | {name for name, does in zip(left, pool.map(shows, left), strict=True) if does}

    def _shown_by_listings(self, wanted: Mapping[tuple[str, str], Digest], *, timeout: float) -> set[tuple[str, str]]:
        by_repository: dict[str, dict[str, str]] = defaultdict(dict)
        for (repository, tag), digest in wanted.items():
            by_repository[repository][tag] = _etag(digest)
        return {
            (repository, tag)
            for repository, etags in by_repository.items()
            if len(etags) >= _WORTH_A_PAGE
            for tag in self._listed_with(repository, etags, timeout=timeout)
        }

    def _listed_with(self, repository: str, etags: Mapping[str, str], *, timeout: float) -> Iterator[str]:
        """Yield the tags whose link is listed with the wanted ETag. Stop at a page that is not worth its price."""
        links = {layout.tag_current_key(repository, tag): tag for tag in etags}
        first, last = min(layout.tag_prefix(repository, tag) for tag in etags), max(links)
        for page in self._bucket.pages(layout.tags_prefix(repository), after=first, timeout=timeout):
            tags = {links[link.key]: link.etag for link in page if link.key in links}
            found = [tag for tag, etag in tags.items() if etags[tag] == etag]
            yield from found
            if len(found) < _WORTH_A_PAGE or max(link.key for link in page) >= last:
                return

    def delete_tag(self, repository: str, tag: str, *, timeout: float) -> None:
        """Delete the tag, as `set_current` writes it: once, in at most *timeout* seconds. Its history stays."""
        self._bucket.delete([layout.tag_current_key(repository, tag)], timeout=timeout, retries=False)

    def delete_history(self, repository: str, tag: str) -> None:
        """Delete the history of a tag. Manifests and blobs stay. May be repeated after an error."""
        self._bucket.delete(list(self._bucket.keys(layout.tag_history_prefix(repository, tag))))

    def repositories(self) -> Iterator[ListedRepository]:
        """Yield every repository that has tags, from a listing of all links in the bucket. For a rebuild of the index.

        All links of a repository follow each other in S3's order, since no component of a name starts with '_'.
        """
        links = map(_link, chain.from_iterable(self._bucket.pages(layout.REPOSITORIES_PREFIX)))
        for name, of_one in groupby((link for link in links if link), key=lambda link: link.repository):
            if found := _listed(name, of_one):
                yield found

    def _write(self, key: str, digest: Digest, *, timeout: float | None = None, retries: bool = True) -> None:
        self._bucket.put(key, str(digest).encode("ascii"), timeout=timeout, retries=retries)


class KeptStore:
    """What is kept without a tag: an image that was mirrored by digest stays because of the object written here.

    This is the truth, not an index: the garbage collector marks from it. It is written before the revision link.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def keep(self, repository: str, digest: Digest) -> None:
        self._bucket.put(layout.kept_key(repository, digest), str(digest).encode("ascii"))

    def unkeep(self, repository: str, digest: Digest) -> None:
        """Keep the digest no longer. No error if it is not kept."""
        self._bucket.delete([layout.kept_key(repository, digest)])

    def is_kept(self, repository: str, digest: Digest) -> bool:
        return self._bucket.size(layout.kept_key(repository, digest)) is not None


def _link(found: ListedObject) -> _Link | None:
    """Parse a key of the listing: a revision, a tag, or an entry of a tag's history."""
    if current := layout.parse_tag_current(found.key):
        return _Link(*current, None, found)
    if revision := layout.parse_revision_link(found.key):
        return _Link(revision[0], None, revision[1], found)
    if history := layout.parse_tag_history(found.key):
        return _Link(*history, found)
    return None


def _listed(name: str, links: Iterable[_Link]) -> ListedRepository | None:
    revisions: set[Digest] = set()
    current: dict[str, ListedObject] = {}
    history: dict[str, dict[Digest, ListedObject]] = defaultdict(dict)
    for tag, digest, found in ((link.tag, link.digest, link.found) for link in links):
        if tag is None and digest is not None:
            revisions.add(digest)
        elif tag is not None and digest is not None:
            history[tag][digest] = found
        elif tag is not None:
            current[tag] = found
    tags = {tag: listed_digest(link, history[tag]) for tag, link in current.items()}
    return ListedRepository(name, frozenset(revisions), tags) if tags else None


def listed_digest(current: ListedObject, history: Mapping[Digest, ListedObject]) -> Digest | None:
    """Return the digest in a tag's link, if the listing proves it: by the link's ETag, which is its MD5.

    Where the server lists no ETags, a tag whose history has one digest shows that one, if the link was written within
    a minute after the entry of the history. The mirror and CNCF distribution both write the entry first, then the link.
    """
    if current.etag:
        return next((digest for digest in history if _etag(digest) == current.etag), None)
    if len(history) != 1:
        return None
    [(digest, entry)] = history.items()
    together = entry.modified <= current.modified <= entry.modified + _WRITTEN_TOGETHER
    return digest if together and current.size == len(str(digest)) else None


def _etag(digest: Digest) -> str:
    """Return the ETag of a link that holds *digest*.

    It is the MD5 of what was PUT, unless the bucket encrypts with a key service (S3 API reference, Object).
    """
    return hashlib.md5(str(digest).encode("ascii"), usedforsecurity=False).hexdigest()


def _digest_in(key: str, content: bytes) -> Digest:
    """Parse the content of a link. One newline at the end is accepted, since other tools write it."""
    try:
        return Digest.parse(content.removesuffix(b"\n").decode("ascii"))
    except (InvalidDigest, UnicodeDecodeError):
        raise StorageDamaged(key, "it holds no digest") from None
