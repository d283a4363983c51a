"""Resolve a reference to all manifests of its image. Each is fetched, checked and parsed. No blob is read.

A digest that a HEAD has named is only a hint. Anyone can name one, so a digest alone does not prove that the source
has the image. The root manifest is what the source serves, now or before. It is read from the bucket only if a record
says that the same registry and repository have served it. Children are named by a root that the source has served, so
they may be read from the bucket.

If the registry has a pull limit, manifests that the bucket holds are read from there, and each fetched manifest is
stored there at once. So another tag of the same image costs no quota. Neither does a task that had to wait and starts
again. An index with more children than one window allows is copied in several windows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import ManifestReader, RemoteManifest, Source
from mirror.errors import (
    ContentError,
    DigestMismatch,
    ManifestInvalid,
    ManifestUnknown,
    MediaTypeUnsupported,
    SourceError,
)
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from mirror.oci.reference import Reference
from mirror.storage.blobs import ManifestStore

MAX_DEPTH: Final = 4
"""Levels of indexes above the manifests."""
MAX_MANIFESTS: Final = 2_000
MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""All manifests of one image together, because they are in memory at the same time."""
_FETCHERS: Final = 8
_LARGE: Final = 256 * 1024
_PARSING: Final = threading.Lock()
_LOG = structlog.get_logger(__name__)


class Resolver:
    """Reads the manifests of images. Safe to share between threads."""

    def __init__(self, source: Source, held: ManifestStore) -> None:
        self._source = source
        self._held = held

    def digest(self, reference: Reference) -> Digest | None:
        """Return the current digest by a HEAD, which costs no Docker Hub quota. None if the answer names none."""
        return reference.digest or self._source.head_manifest(reference)

    @contextmanager
    def resolving(
        self, reference: Reference, hint: Digest | None, cancellation: Cancellation, memory: ManifestMemory
    ) -> Iterator[Resolution]:
        """Read the root of *reference*, whose digest is *hint* according to a HEAD. `Resolution.image` reads the rest.

        Every manifest is counted in *memory*, before it is read if its size is known.
        Raises ManifestUnknown, ManifestInvalid, MediaTypeUnsupported, DigestMismatch, or what the source raises.
        """
        named = replace(reference, digest=hint) if hint else reference
        with self._source.reading(named) as manifests:
            yield Resolution(reference, hint, manifests, self._held, cancellation, memory)


class Resolution:
    """One image that is being read. ``root`` is read at once. ``held`` are the children that the bucket had."""

    def __init__(
        self,
        reference: Reference,
        hint: Digest | None,
        manifests: ManifestReader,
        held: ManifestStore,
        cancellation: Cancellation,
        memory: ManifestMemory,
    ) -> None:
        self._memory = memory
        self._reference = reference
        self._manifests = manifests
        self._held = held
        self._cancellation = cancellation
        self._found: dict[Digest, ManifestContent] = {}
        self._left_out: dict[Digest, LeftOut] = {}
        self.held: list[Digest] = []
        self.root = self._root(hint)

    def image(self) -> Image:
        """Return the root with everything below it. Raises SizeInvalid, and what `Resolver.resolving` raises.

        Manifests are fetched level by level, several at a time. A level is fetched only if the pull limit of the source
        allows all of it.
        """
        level, depth = [self.root], 0
        while level:
            depth += 1
            level = self._below(level, depth)
        left_out = _schema_1_entries(self._found) | self._left_out
        image = Image(tuple(_children_first(self.root, self._found)), tuple(left_out.values()))
        image.require_bounded()
        return image

    def _root(self, hint: Digest | None) -> ManifestContent:
        if self._reference.digest:
            return self._served_before(self._reference.digest) or self._served(self._manifests.get(self._reference))
        if hint and (found := self._served_before(hint) or self._hinted(hint)):
            return found
        return self._tagged()

    def _served_before(self, digest: Digest) -> ManifestContent | None:
        """Return the root from the bucket, if reading costs and a record says that this source has served it."""
        if not self._manifests.is_limited() or not self._held.was_served(self._reference, digest):
            return None
        body = self._held.read(digest)
        if body is None:
            return None
        self._memory.hold(len(body))
        parsed = self._parsed(body, None, what=str(self._reference))
        return ManifestContent(Descriptor(parsed.media_type, digest, len(body)), body, parsed)

    def _hinted(self, hint: Digest) -> ManifestContent | None:
        """Return the root by the digest that a HEAD named, or None if the tag must be read."""
        remote = self._manifests.get_hinted(replace(self._reference, digest=hint))
        try:
            if remote is not None:
                return self._served(remote)
        except ContentError as error:
            _LOG.info("the digest from a HEAD names no image", source=str(self._reference), reason=error.message)
        return None

    def _tagged(self) -> ManifestContent:
        """Return the manifest of the tag. It is read a second time if the tag moved meanwhile."""
        try:
            return self._served(self._manifests.get(self._reference))
        except DigestMismatch:
            return self._served(self._manifests.get(self._reference))

    def _served(self, remote: RemoteManifest) -> ManifestContent:
        """Check and parse the root that the source has just served."""
        self._memory.hold(len(remote.body))
        media_type = None if remote.media_type in media_types.GENERIC else remote.media_type
        parsed = self._parsed(remote.body, media_type, what=str(self._reference))
        descriptor = Descriptor(parsed.media_type, remote.digest, len(remote.body))
        if self._manifests.is_limited():
            self._held.put(descriptor, remote.body)
            self._held.note_served(self._reference, remote.digest)
        return ManifestContent(descriptor, remote.body, parsed)

    def _below(self, level: Sequence[ManifestContent], depth: int) -> list[ManifestContent]:
        """Fetch the children of a level that are not known yet."""
        self._found.update((content.descriptor.digest, content) for content in level)
        if sum(len(content.body) for content in self._found.values()) > MAX_MANIFEST_BYTES:
            raise ManifestInvalid(
                str(self._reference), f"its manifests have more than {MAX_MANIFEST_BYTES} bytes together"
            )
        children = self._children_of(level)
        if not children:
            return []
        if depth > MAX_DEPTH:
            raise ManifestInvalid(str(self._reference), f"its indexes are nested more than {MAX_DEPTH} deep")
        if len(self._found) + len(children) > MAX_MANIFESTS:
            raise ManifestInvalid(str(self._reference), f"it has more than {MAX_MANIFESTS} manifests")
        self._memory.hold(sum(min(child.size, MAX_MANIFEST_SIZE) for child in children.values()))
        held = self._held_of(children)
        self.held += held
        self._manifests.expect(len(children) - len(held))

        def content(child: Descriptor) -> ManifestContent | None:
            return self._content(child, held.get(child.digest))

        with self._threads() as pool:
            return [found for found in pool.map(content, children.values()) if found is not None]

    def _children_of(self, level: Sequence[ManifestContent]) -> dict[Digest, Descriptor]:
        """Return the entries that may be manifests and are not known yet."""
        return {
            child.digest: child
            for content in level
            if isinstance(content.parsed, Index)
            for child in content.parsed.possible_manifests
            if child.digest not in self._found and child.digest not in self._left_out
        }

    def _content(self, child: Descriptor, held: bytes | None) -> ManifestContent | None:
        """Return a child. None if it is no manifest: then it is left out, or tried as a plain blob.

        Only bytes that have the child's digest can show that its type is unsupported. What else the source serves in
        its place is an error.
        """
        self._cancellation.check()
        try:
            body, content_type = self._fetched(child) if held is None else (held, None)
            try:
                content = self._checked(child, body, content_type)
            except MediaTypeUnsupported as error:
                if child.media_type:
                    self._left_out[child.digest] = LeftOut(child, error.message, error.code)
                return None
        except (SourceError, ContentError) as error:
            if child.media_type or error.waits_for:
                raise
            return None
        if held is None and self._manifests.is_limited():
            self._held.put(content.descriptor, body)
        return content

    def _fetched(self, child: Descriptor) -> tuple[bytes, str | None]:
        """Return the bytes of a child and their Content-Type, from the source or from its descriptor."""
        try:
            remote = self._manifests.get(replace(self._reference, digest=child.digest), expect=child)
        except (SourceError, ContentError) as error:
            if (inline := child.inline_content()) is not None:
                return inline, None
            if not isinstance(error, ManifestUnknown):
                raise
            platform = str(child.platform) if child.platform else ""
            raise ManifestUnknown.of_child(str(child.digest), platform, str(self._reference)) from None
        return remote.body, remote.media_type

    def _held_of(self, digests: Iterable[Digest]) -> dict[Digest, bytes]:
        """Return the manifests that the bucket holds, if reading them from the registry would cost."""
        if not self._manifests.is_limited():
            return {}
        with self._threads() as pool:
            found = list(pool.map(lambda digest: (digest, self._held.read(digest)), digests))
        return {digest: body for digest, body in found if body is not None}

    def _checked(self, child: Descriptor, body: bytes, content_type: str | None) -> ManifestContent:
        """Parse a child of an index. Its media type must be the one that the index names.

        A Content-Type that no manifest has is ignored: the digest proves that the bytes are right.
        """
        media_type = content_type if content_type in media_types.ACCEPTED else child.media_type
        parsed = self._parsed(body, media_type, what=str(child.digest))
        if child.media_type and parsed.media_type != child.media_type:
            raise ManifestInvalid(str(child.digest), f"its index says it is '{child.media_type}'")
        return ManifestContent(replace(child, media_type=parsed.media_type), body, parsed)

    def _parsed(self, body: bytes, content_type: str | None, *, what: str) -> Manifest | Index:
        """Parse a manifest and count its memory. Large ones are parsed one at a time: JSON needs ten times its size."""
        with _PARSING if len(body) > _LARGE else nullcontext():
            parsed = parse_manifest(body, content_type, what=what)
        named = parsed.manifests if isinstance(parsed, Index) else parsed.blobs
        self._memory.hold(sum(len(one.data or "") for one in named), blobs=len(named))
        return parsed

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_FETCHERS, "manifests", initializer=self._cancellation.bind_thread)


def _schema_1_entries(found: dict[Digest, ManifestContent]) -> dict[Digest, LeftOut]:
    """Return the entries with a type of Docker schema 1 as left out. Nothing is requested for them."""
    left_out: dict[Digest, LeftOut] = {}
    for content in found.values():
        entries = content.parsed.unknown_entries if isinstance(content.parsed, Index) else ()
        for entry in entries:
            if entry.media_type in media_types.SCHEMA_1 and entry.digest not in found:
                error = MediaTypeUnsupported.for_schema_1(str(entry.digest), entry.media_type)
                left_out[entry.digest] = LeftOut(entry, error.message, error.code)
    return left_out


def _children_first(root: ManifestContent, found: dict[Digest, ManifestContent]) -> list[ManifestContent]:
    """Return each manifest once, children before parents: the order in which they may become visible."""
    ordered: dict[Digest, ManifestContent] = {}

    def walk(content: ManifestContent) -> None:
        if isinstance(content.parsed, Index):
            for child in content.parsed.manifests:
                if child.digest in found and child.digest not in ordered:
                    walk(found[child.digest])
        ordered[content.descriptor.digest] = content

    walk(root)
    return list(ordered.values())
