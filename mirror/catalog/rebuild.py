"""Rebuilding the index from the bucket, when Redis has lost it or never had it.

The listing of the bucket tells almost everything: repositories, tags, which manifests a repository has, and, as a rule,
the digest of each tag. The record that each image has of its provenance says what lists tell of it. Where a record is
missing or older than that, the image's manifests and config are read, each once. All of it is read side by side and
written to Redis in batches.

No tag is locked, so publishing goes on meanwhile. Instead every change of a tag that is listed while the index is not
built is noted (`CatalogIndex.put` and `remove`, called after the commit), and the rebuild never overwrites a noted tag.
What it read of any other tag is still true, or its change is about to be listed over it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from mirror.catalog.entry import entry_of, summary_of
from mirror.catalog.index import CatalogIndex
from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader, platforms
from mirror.errors import (
    ImageNotHeld,
    MirrorError,
    RedisUnavailable,
    StorageDamaged,
    StorageRefused,
    StorageUnavailable,
    TagBusy,
)
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import Index
from mirror.redis.client import Redis
from mirror.storage.bucket import Bucket
from mirror.storage.links import LinkStore, ListedRepository
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

_BATCH: Final = 256
"""Tags that are read side by side, and listed with one round trip to Redis for every few dozen."""
_READERS: Final = 8
_REMEMBERED: Final = 16 * 2**20
"""Bytes of manifests that are remembered, so that images with many tags are read once."""
_AWAY: Final = (StorageUnavailable, StorageRefused, RedisUnavailable, TagBusy)
"""Errors that end a rebuild. The next one begins anew and passes over what is listed already."""
_LOG = structlog.get_logger(__name__)

_Described = tuple[ImageSummary, ImageProvenance | None]
"""What lists tell of an image, and where it came from."""


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag of the bucket's listing, and the digest that it shows."""

    repository: ListedRepository
    name: str
    digest: Digest


_Images = Mapping[tuple[str, Digest], _Tag]
"""By repository and digest, one of the tags that show the image."""


class Rebuilder:
    """Rebuilds the index. Run it by one process at a time; two would only do the work twice."""

    def __init__(self, bucket: Bucket, redis: Redis, publisher: Publisher) -> None:
        self._links = LinkStore(bucket)
        self._reader = CatalogReader(bucket)
        self._provenance = ProvenanceStore(bucket)
        self._index = CatalogIndex(redis)
        self._publisher = publisher
        self._manifests: dict[Digest, ManifestContent | MirrorError] = {}
        self._remembered = 0

    def rebuild_if_missing(self, alive: Callable[[], bool]) -> None:
        """Rebuild the index unless it is built; raises what `rebuild` raises."""
        if not self._index.is_built():
            self.rebuild(alive)

    def rebuild(self, alive: Callable[[], bool]) -> bool:
        """List every tag of the bucket, and nothing else. Returns False if *alive* did, or Redis lost its data anew.

        A tag whose image cannot be read is left out and logged, and does not keep the others from being listed.
        Raises StorageUnavailable, StorageRefused or RedisUnavailable.
        """
        run = secrets.token_hex(8)
        self._index.begin_rebuild(run)
        repositories: set[str] = set()
        seen = 0
        with ThreadPoolExecutor(_READERS, thread_name_prefix="rebuild") as self._pool:
            listed = self._listed(repositories)
            while batch := list(islice(listed, _BATCH)):
                if not alive():
                    return False
                self._list(batch)
                seen += len(batch)
                if not self._index.note_progress(run, seen, batch[-1][0].name):
                    return False
        for repository, tag in self._index.listed():
            if repository not in repositories:
                self._publisher.relist(repository, tag)
        self._manifests.clear()
        if not self._index.finish_rebuild(run):
            return False
        _LOG.info("index built from the bucket", tags=seen)
        return True

    def _listed(self, repositories: set[str]) -> Iterator[tuple[ListedRepository, str]]:
        """Every tag of the bucket. What the index lists of the same repositories and the bucket has not is relisted."""
        for repository in self._links.repositories():
            repositories.add(repository.name)
            for tag in self._index.listed_tags(repository.name):
                if tag not in repository.tags:
                    self._publisher.relist(repository.name, tag)
            yield from ((repository, tag) for tag in repository.tags)

    def _list(self, batch: Sequence[tuple[ListedRepository, str]]) -> None:
        """List those tags of the batch that are not listed as they are."""
        before = self._index.look_up_all([(repository.name, tag) for repository, tag in batch])
        shown = list(self._pool.map(self._tag, batch))
        changed = [
            tag
            for tag, listed in zip(shown, before, strict=True)
            if tag and (listed is None or tag.digest != listed.digest)
        ]
        described = self._described_all({(tag.repository.name, tag.digest): tag for tag in changed})
        found = [(tag, described[tag.repository.name, tag.digest]) for tag in changed]
        self._index.put_unchanged(
            (entry_of(LocalImage(tag.repository.name, tag.name), tag.digest, *image), image[0].sizes)
            for tag, image in found
            if not isinstance(image, MirrorError)
        )
        for tag, error in found:
            if isinstance(error, MirrorError):
                self._leave_out(tag.repository.name, tag.name, error)

    def _tag(self, listed: tuple[ListedRepository, str]) -> _Tag | None:
        """What a tag shows, read from its link where the listing does not tell."""
        repository, tag = listed
        try:
            digest = repository.tags[tag] or self._links.current(repository.name, tag)
        except _AWAY:
            raise
        except MirrorError as error:
            self._leave_out(repository.name, tag, error)
            return None
        return _Tag(repository, tag, digest) if digest else None

    def _described_all(self, images: _Images) -> Mapping[tuple[str, Digest], _Described | MirrorError]:
        """Describe each image from its record, or, where that has no summary, from its manifests and its config."""
        origins = dict(zip(images, self._pool.map(self._origin, images.values()), strict=True))
        missing = {key: tag for key, tag in images.items() if not _summary(origins[key])}
        self._read_manifests(tag.digest for tag in missing.values() if tag.digest in tag.repository.revisions)
        summaries = dict(zip(missing, self._pool.map(self._summarised, missing.values()), strict=True))
        described: dict[tuple[str, Digest], _Described | MirrorError] = {}
        for key, origin in origins.items():
            summary = _summary(origin) or summaries[key]
            described[key] = summary if isinstance(summary, MirrorError) else (summary, origin)
        return described

    def _origin(self, tag: _Tag) -> ImageProvenance | None:
        """The record of the image, None where there is none, or the repository has not even its manifest."""
        if tag.digest not in tag.repository.revisions:
            return None
        try:
            return self._provenance.image(tag.repository.name, tag.digest)
        except StorageDamaged:
            return None

    def _read_manifests(self, roots: Iterable[Digest]) -> None:
        """Read these manifests and all below them that are not remembered, level by level."""
        if self._remembered > _REMEMBERED:
            self._manifests.clear()
            self._remembered = 0
        level = set(roots) - self._manifests.keys()
        while level:
            found = dict(zip(level, self._pool.map(self._manifest, level), strict=True))
            self._manifests |= found
            contents = [content for content in found.values() if isinstance(content, ManifestContent)]
            self._remembered += sum(len(content.body) for content in contents)
            indexes = [content.parsed for content in contents if isinstance(content.parsed, Index)]
            level = {child.digest for index in indexes for child in index.possible_manifests} - self._manifests.keys()

    def _manifest(self, digest: Digest) -> ManifestContent | MirrorError:
        try:
            return self._reader.content(digest)
        except _AWAY:
            raise
        except MirrorError as error:
            return error

    def _summarised(self, tag: _Tag) -> ImageSummary | MirrorError:
        """What lists tell of the image that a tag shows, or why nothing can be told."""
        try:
            whole = Image(tuple(self._below(tag.digest, tag.repository)))
            image = self._reader.as_held(whole, tag.repository.name)
            return summary_of(image, platforms(image, self._reader.config(image)))
        except _AWAY:
            raise
        except MirrorError as error:
            return error

    def _below(self, digest: Digest, repository: ListedRepository) -> list[ManifestContent]:
        """A manifest behind all below it that the repository has, each once."""
        found: dict[Digest, ManifestContent] = {}

        def collect(digest: Digest) -> None:
            held = digest in repository.revisions
            content = self._manifests[digest] if held else ImageNotHeld(f"{repository.name}@{digest}")
            if isinstance(content, MirrorError):
                raise content
            children = content.parsed.possible_manifests if isinstance(content.parsed, Index) else ()
            for child in children:
                if child.digest not in found and child.digest in repository.revisions:
                    collect(child.digest)
            found.setdefault(digest, content)

        collect(digest)
        return list(found.values())

    def _leave_out(self, repository: str, tag: str, error: MirrorError) -> None:
        _LOG.error("tag cannot be listed", image=f"{repository}:{tag}", code=error.code, reason=error.message)
        if isinstance(error, ImageNotHeld):
            self._publisher.relist(repository, tag)


def _summary(origin: ImageProvenance | None) -> ImageSummary | None:
    return origin.summary if origin else None
