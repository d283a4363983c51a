"""Rebuild the index from the bucket, when Redis lost it or never had it.

A listing of the bucket shows almost everything: repositories, tags, the manifests of each repository, and as a rule the
digest of each tag. The provenance record of each image has a summary for lists. Where a record is missing, or older
than summaries, the image's manifests and config are read, each once. Reads run in parallel, and entries are written to
Redis in batches.

No tag is locked, so publishing goes on meanwhile. While the index is not built, every change of an entry is noted. It
is made after the tag's commit (`CatalogIndex.put` and `remove`). The rebuild never overwrites a noted tag. What it read
of any other tag is still true, or the change of its entry is about to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from mirror.catalog.entry import ImageEntry
from mirror.catalog.index import CatalogIndex, IndexRebuild
from mirror.catalog.reader import CatalogReader
from mirror.catalog.relist import Relister
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
from mirror.storage.links import LinkStore, ListedRepository
from mirror.storage.provenance import ImageProvenance, ImageSummary, ProvenanceStore

_BATCH: Final = 256
"""Tags that are read in parallel, and listed with one round trip to Redis for every few dozen."""
_READERS: Final = 8
_MOST_CACHED: Final = 16 * 2**20
"""Bytes of manifests that are cached, so that images with many tags are read once."""
_FATAL: Final = (StorageUnavailable, StorageRefused, RedisUnavailable, TagBusy)
"""Errors that end a rebuild. The next one starts from the beginning, and skips what is listed already."""
_LOG = structlog.get_logger(__name__)

_Described = tuple[ImageSummary, ImageProvenance | None]
"""What lists show of an image, and where it came from."""


@dataclass(frozen=True, slots=True)
class _Tag:
    """A tag of the bucket's listing, and the digest that it shows."""

    repository: ListedRepository
    name: str
    digest: Digest


_Images = Mapping[tuple[str, Digest], _Tag]
"""By repository and digest, one of the tags that show the image."""


class Rebuilder:
    """Rebuilds the index. Run it in one process at a time. Two would do the same work twice, without harm."""

    def __init__(
        self,
        index: CatalogIndex,
        index_rebuild: IndexRebuild,
        relister: Relister,
        reader: CatalogReader,
        *,
        links: LinkStore,
        provenance: ProvenanceStore,
    ) -> None:
        self._index = index
        self._index_rebuild = index_rebuild
        self._relister = relister
        self._reader = reader
        self._links = links
        self._provenance = provenance

    def rebuild_if_missing(self, alive: Callable[[], bool]) -> None:
        """Rebuild the index unless it is built. Raises what `rebuild` raises."""
        if not self._index.is_built():
            self.rebuild(alive)

    def rebuild(self, alive: Callable[[], bool]) -> bool:
        """List every tag of the bucket, and nothing else. Return False if *alive* did, or Redis lost its data again.

        *alive* is called between two batches. A tag whose image cannot be read is logged and left out, and the others
        are listed. Raises StorageUnavailable, StorageRefused, RedisUnavailable or TagBusy.
        """
        rebuild = self._index_rebuild.begin()
        repositories: set[str] = set()
        tags = 0
        with ThreadPoolExecutor(_READERS, thread_name_prefix="rebuild") as pool:
            images = _ImageReader(self._reader, self._provenance, pool)
            found = self._tags_of_bucket(repositories)
            while batch := list(islice(found, _BATCH)):
                if not alive():
                    return False
                self._list(batch, images, pool)
                tags += len(batch)
                if not self._index_rebuild.note_progress(rebuild, tags, batch[-1][0].name):
                    return False
        for repository, tag in self._index_rebuild.all_tags():
            if repository not in repositories:
                self._relister.relist(LocalImage(repository, tag))
        if not self._index_rebuild.finish(rebuild):
            return False
        _LOG.info("index built from the bucket", tags=tags)
        return True

    def _tags_of_bucket(self, repositories: set[str]) -> Iterator[tuple[ListedRepository, str]]:
        """Yield every tag of the bucket, and add its repository to *repositories*.

        Relist the tags of the same repositories that are in the index and not in the bucket.
        """
        for repository in self._links.repositories():
            repositories.add(repository.name)
            for tag in self._index_rebuild.tags_of(repository.name):
                if tag not in repository.tags:
                    self._relister.relist(LocalImage(repository.name, tag))
            yield from ((repository, tag) for tag in repository.tags)

    def _list(
        self, batch: Sequence[tuple[ListedRepository, str]], images: _ImageReader, pool: ThreadPoolExecutor
    ) -> None:
        """List those tags of the batch whose entry is missing or has another digest."""
        before = self._index.indexed([(repository.name, tag) for repository, tag in batch])
        shown = list(pool.map(self._tag, batch))
        changed = [
            tag
            for tag, indexed in zip(shown, before, strict=True)
            if tag and (indexed is None or tag.digest != indexed.digest)
        ]
        described = images.describe({(tag.repository.name, tag.digest): tag for tag in changed})
        found = [(tag, described[tag.repository.name, tag.digest]) for tag in changed]
        self._index_rebuild.put_unchanged(
            (ImageEntry.of(LocalImage(tag.repository.name, tag.name), tag.digest, *image), image[0].sizes)
            for tag, image in found
            if not isinstance(image, MirrorError)
        )
        for tag, error in found:
            if isinstance(error, MirrorError):
                self._leave_out(tag.repository.name, tag.name, error)

    def _tag(self, listed: tuple[ListedRepository, str]) -> _Tag | None:
        """Return what a tag shows. Its link is read where the listing does not prove it."""
        repository, tag = listed
        try:
            digest = repository.tags[tag] or self._links.current(repository.name, tag)
        except _FATAL:
            raise
        except MirrorError as error:
            self._leave_out(repository.name, tag, error)
            return None
        return _Tag(repository, tag, digest) if digest else None

    def _leave_out(self, repository: str, tag: str, error: MirrorError) -> None:
        _LOG.error("tag cannot be listed", image=f"{repository}:{tag}", code=error.code, reason=error.message)
        if isinstance(error, ImageNotHeld):
            self._relister.relist(LocalImage(repository, tag))


class _ImageReader:
    """Reads what lists show of images, for one rebuild. It caches manifests."""

    def __init__(self, reader: CatalogReader, provenance: ProvenanceStore, pool: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._provenance = provenance
        self._pool = pool
        self._manifests: dict[Digest, ManifestContent | MirrorError] = {}
        self._cached = 0

    def describe(self, images: _Images) -> Mapping[tuple[str, Digest], _Described | MirrorError]:
        """Describe each image from its record or, where that has no summary, from its manifests and its config."""
        origins = dict(zip(images, self._pool.map(self._origin, images.values()), strict=True))
        missing = {key: tag for key, tag in images.items() if not _summary(origins[key])}
        self._read_manifests(tag.digest for tag in missing.values() if tag.digest in tag.repository.revisions)
        summaries = dict(zip(missing, self._pool.map(self._summarize, missing.values()), strict=True))
        described: dict[tuple[str, Digest], _Described | MirrorError] = {}
        for key, origin in origins.items():
            summary = _summary(origin) or summaries[key]
            described[key] = summary if isinstance(summary, MirrorError) else (summary, origin)
        return described

    def _origin(self, tag: _Tag) -> ImageProvenance | None:
        """Return the record of the image. None if there is none, or the repository does not have its manifest."""
        if tag.digest not in tag.repository.revisions:
            return None
        try:
            return self._provenance.image(tag.repository.name, tag.digest)
        except StorageDamaged:
            return None

    def _read_manifests(self, roots: Iterable[Digest]) -> None:
        """Read these manifests, and all below them that are not cached, level by level."""
        if self._cached > _MOST_CACHED:
            self._manifests.clear()
            self._cached = 0
        level = set(roots) - self._manifests.keys()
        while level:
            found = dict(zip(level, self._pool.map(self._manifest, level), strict=True))
            self._manifests |= found
            contents = [content for content in found.values() if isinstance(content, ManifestContent)]
            self._cached += sum(len(content.body) for content in contents)
            indexes = [content.parsed for content in contents if isinstance(content.parsed, Index)]
            level = {child.digest for index in indexes for child in index.possible_manifests} - self._manifests.keys()

    def _manifest(self, digest: Digest) -> ManifestContent | MirrorError:
        try:
            return self._reader.manifest_of_any(digest)
        except _FATAL:
            raise
        except MirrorError as error:
            return error

    def _summarize(self, tag: _Tag) -> ImageSummary | MirrorError:
        """Return what lists show of the image, or the error that says why nothing can be shown."""
        try:
            whole = Image(tuple(self._tree(tag.digest, tag.repository)))
            return self._reader.summarize(self._reader.as_held(whole, tag.repository.name))
        except _FATAL:
            raise
        except MirrorError as error:
            return error

    def _tree(self, digest: Digest, repository: ListedRepository) -> list[ManifestContent]:
        """Return a manifest and all below it that the repository has: children first, each once."""
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


def _summary(origin: ImageProvenance | None) -> ImageSummary | None:
    return origin.summary if origin else None
