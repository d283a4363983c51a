"""The link files that a stock registry reads: which repository has which layer, manifest and tag.

A link holds its digest and nothing else; a newline at its end makes CNCF distribution 2.8 answer 500.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from time import monotonic
from typing import Final, NamedTuple

from mirror.errors import InvalidDigest, StorageDamaged
from mirror.oci.digest import Digest
from mirror.storage import layout
from mirror.storage.bucket import Bucket, ListedObject, md5

_LONGEST_LINK: Final = 256
"""Bytes; the longest digest has 135."""
_READERS: Final = 8
_WRITTEN_TOGETHER: Final = timedelta(minutes=1)
_WORTH_A_PAGE: Final = 12
"""Tags that a page of a listing has to tell of."""


@dataclass(frozen=True, slots=True)
class ListedRepository:
    """The manifests that a repository has, and its tags, each with its digest, or None if the link must be read."""

    name: str
    revisions: frozenset[Digest]
    tags: Mapping[str, Digest | None]


class _Link(NamedTuple):
    """A link in a listing: of a tag, of a revision, or, with both *tag* and *digest*, of a tag's history."""

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
        """Let *repository* serve the manifest or index; each child and referrer needs its own."""
        self._write(layout.revision_link_key(repository, digest), digest)

    def has_revision(self, repository: str, digest: Digest) -> bool:
        return self._bucket.size(layout.revision_link_key(repository, digest)) is not None

    def add_to_history(self, repository: str, tag: str, digest: Digest, *, timeout: float) -> None:
        """Note that the tag points, or is about to point, at *digest*; written as `set_current` writes: once, and over
        the connection that writes next.
        """
        self._write(layout.tag_history_key(repository, tag, digest), digest, timeout=timeout, retries=False)

    def set_current(self, repository: str, tag: str, digest: Digest, *, timeout: float) -> None:
        """Point the tag at *digest*: the one PUT that publishes an image.

        It is tried once and bounded by *timeout* seconds, so that it cannot land after the lease that covers it. After
        StorageUnavailable it may have happened or not; `current` tells.
        """
        self._write(layout.tag_current_key(repository, tag), digest, timeout=timeout, retries=False)

    def current(self, repository: str, tag: str, *, timeout: float | None = None) -> Digest | None:
        """What the tag points at, None if there is no such tag. Raises StorageDamaged if its link holds no digest.

        With a *timeout* it is asked as `set_current` writes: once, and over the connection that writes next.
        """
        key = layout.tag_current_key(repository, tag)
        content = self._bucket.read(key, _LONGEST_LINK, timeout=timeout, retries=timeout is None)
        return None if content is None else _digest_in(key, content)

    def showing(self, wanted: Mapping[tuple[str, str], Digest], *, timeout: float) -> set[tuple[str, str]]:
        """Those of the (repository, tag) that point at the digest beside them, asked for together, as `current` asks.

        Many tags of a repository are looked for in the bucket's listing. The rest is read link by link, as long as
        *timeout* seconds have not passed; of what is left then nothing is said.
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
        """Those of the tags whose link is listed with the ETag, read on as long as a page is worth what it costs: as
        much as a dozen GETs (S3 pricing).
        """
        links = {layout.tag_current_key(repository, tag): tag for tag in etags}
        first, last = min(layout.tag_prefix(repository, tag) for tag in etags), max(links)
        for page in self._bucket.etags(layout.tags_prefix(repository), after=first, timeout=timeout):
            found = [links[key] for key, etag in page.items() if key in links and etags[links[key]] == etag]
            yield from found
            if len(found) < _WORTH_A_PAGE or max(page) >= last:
                return

    def history(self, repository: str, tag: str) -> list[Digest]:
        """Every digest the tag ever pointed at since it was last deleted, by digest: S3 keeps no order of time."""
        parsed = map(layout.parse_tag_history, self._bucket.keys(layout.tag_history_prefix(repository, tag)))
        return [digest for found in parsed if found for _, _, digest in [found]]

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete the tag, then its history; manifests and blobs stay. May be repeated after an error."""
        self._bucket.delete([layout.tag_current_key(repository, tag)])
        self._bucket.delete(list(self._bucket.keys(layout.tag_history_prefix(repository, tag))))

    def repositories(self) -> Iterator[ListedRepository]:
        """Every repository that has tags, as the bucket's listing tells of them. It lists every link, for a rebuild.

        All links of a repository stand together in S3's order, since no component of a name starts with '_'.
        """
        links = map(_link, self._bucket.objects(layout.repositories_prefix()))
        for name, of_one in groupby((link for link in links if link), key=lambda link: link.repository):
            if found := _listed(name, of_one):
                yield found

    def _write(self, key: str, digest: Digest, *, timeout: float | None = None, retries: bool = True) -> None:
        self._bucket.put(key, str(digest).encode("ascii"), timeout=timeout, retries=retries)


def _link(found: ListedObject) -> _Link | None:
    """What a key of the listing is a link of: a revision, a tag, or an entry of a tag's history."""
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
    tags = {tag: digest_shown(link, history[tag]) for tag, link in current.items()}
    return ListedRepository(name, frozenset(revisions), tags) if tags else None


def digest_shown(current: ListedObject, history: Mapping[Digest, ListedObject]) -> Digest | None:
    """The digest in a tag's link, as far as the listing proves it: by the link's ETag, which is its MD5.

    Where the server tells no ETags, a tag that has shown one digest only shows that one, if its link was written along
    with the entry of its history: both are, here and in CNCF distribution, and the entry comes first.
    """
    if current.etag:
        return next((digest for digest in history if _etag(digest) == current.etag), None)
    if len(history) != 1:
        return None
    [(digest, entry)] = history.items()
    together = entry.modified <= current.modified <= entry.modified + _WRITTEN_TOGETHER
    return digest if together and current.size == len(str(digest)) else None


def _etag(digest: Digest) -> str:
    """That of a link which holds *digest*."""
    return md5(str(digest).encode("ascii")).hex()


def _digest_in(key: str, content: bytes) -> Digest:
    """One newline at the end is forgiven: other tools write it."""
    try:
        return Digest.parse(content.removesuffix(b"\n").decode("ascii"))
    except (InvalidDigest, UnicodeDecodeError):
        raise StorageDamaged(key, "it holds no digest") from None
