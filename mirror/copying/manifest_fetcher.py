"""Fetch the manifests of one image: from the source, or from the bucket where that is allowed and saves quota.

A digest that a HEAD has named is only a hint. Anyone can name one, so a digest alone does not prove that the source
has the image. The root manifest is what the source serves, now or before. It is read from the bucket only if a record
says that the same registry and repository have served it. Children are named by a root that the source has served, so
they may be read from the bucket.

If the registry has a pull limit, manifests that the bucket holds are read from there, and each fetched manifest is
stored there at once. So another tag of the same image costs no quota. Neither does a task that had to wait and starts
again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

import structlog

from mirror.copying.cancellation import Cancellation
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import ManifestReader, RemoteManifest
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
from mirror.oci.image import LeftOut, ManifestContent
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Index, Manifest, parse_manifest
from mirror.oci.reference import Reference
from mirror.storage.blobs import ManifestStore

_FETCHERS: Final = 8
_LARGE: Final = 256 * 1024
_URL_BYTES: Final = 72
"""Bytes of memory for each URL of a layer, beside its characters."""
_PARSING: Final = threading.Lock()
_LOG = structlog.get_logger(__name__)


def parsing(size: int) -> AbstractContextManager[Any]:
    """Return a context for parsing *size* bytes of JSON, which needs ten times that. Large ones are parsed in turn."""
    return _PARSING if size > _LARGE else nullcontext()


class ManifestFetcher:
    """Fetches, checks and parses the manifests of one image.

    ``held`` are the children that the bucket had. ``left_out`` are those whose type is unsupported. ``fetched`` counts
    the manifests that were read from the source. Of these, ``counted`` ones count against a pull limit, and ``kept``
    ones are stored in the bucket for that reason.
    """

    def __init__(
        self,
        reference: Reference,
        manifests: ManifestReader,
        held: ManifestStore,
        cancellation: Cancellation,
        memory: ManifestMemory,
    ) -> None:
        self.reference = reference
        self.memory = memory
        self._manifests = manifests
        self._held = held
        self._cancellation = cancellation
        self.held: list[Digest] = []
        self.left_out: dict[Digest, LeftOut] = {}
        self.fetched = self.counted = self.kept = 0

    def root(self, hint: Digest | None) -> ManifestContent:
        """Return the root, whose digest is *hint* according to a HEAD."""
        if self.reference.digest:
            return self._served_before(self.reference.digest) or self._served(self._manifests.get(self.reference))
        if hint and (found := self._served_before(hint) or self._hinted(hint)):
            return found
        return self._tagged()

    def _served_before(self, digest: Digest) -> ManifestContent | None:
        """Return the root from the bucket, if reading costs and a record says that this source has served it."""
        if not self._manifests.is_limited() or not self._held.was_served(self.reference, digest):
            return None
        body = self._held.read(digest)
        if body is None:
            return None
        self.memory.hold(len(body))
        parsed = self._parsed(body, None, what=str(self.reference))
        return ManifestContent(Descriptor(parsed.media_type, digest, len(body)), body, parsed)

    def _hinted(self, hint: Digest) -> ManifestContent | None:
        """Return the root by the digest that a HEAD named, or None if the tag must be read."""
        remote = self._manifests.get_hinted(replace(self.reference, digest=hint))
        try:
            if remote is not None:
                return self._served(remote)
        except ContentError as error:
            _LOG.info("the digest from a HEAD names no image", source=str(self.reference), reason=error.message)
        return None

    def _tagged(self) -> ManifestContent:
        """Return the manifest of the tag. It is read a second time if the tag moved meanwhile."""
        try:
            return self._served(self._manifests.get(self.reference))
        except DigestMismatch:
            return self._served(self._manifests.get(self.reference))

    def _served(self, remote: RemoteManifest) -> ManifestContent:
        """Check and parse the root that the source has just served."""
        self.memory.hold(len(remote.body))
        self.fetched += 1
        self.counted += self._manifests.is_limited()
        media_type = None if remote.media_type in media_types.GENERIC else remote.media_type
        parsed = self._parsed(remote.body, media_type, what=str(self.reference))
        descriptor = Descriptor(parsed.media_type, remote.digest, len(remote.body))
        if self._manifests.is_limited():
            self._held.put(descriptor, remote.body)
            self._held.note_served(self.reference, remote.digest)
            self.kept += 1
        return ManifestContent(descriptor, remote.body, parsed)

    def children(self, children: Mapping[Digest, Descriptor]) -> list[ManifestContent]:
        """Return these children, apart from those that are no manifests."""
        self.memory.hold(sum(min(child.size, MAX_MANIFEST_SIZE) for child in children.values()))
        held = self._held_of(children)
        self.held += held
        self._manifests.expect(len(children) - len(held))

        def content(child: Descriptor) -> ManifestContent | None:
            return self._content(child, held.get(child.digest))

        with self._threads() as pool:
            read = [found for found in pool.map(content, children.values()) if found is not None]
        self.fetched += len(children) - len(held)
        if self._manifests.is_limited():
            self.counted += len(children) - len(held)
            self.kept += len(read) - len(held)
        return read

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
                    self.left_out[child.digest] = LeftOut(child, error.message, error.code)
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
            remote = self._manifests.get(replace(self.reference, digest=child.digest), expect=child)
        except (SourceError, ContentError) as error:
            if (inline := child.inline_content()) is not None:
                return inline, None
            if not isinstance(error, ManifestUnknown):
                raise
            platform = str(child.platform) if child.platform else ""
            raise ManifestUnknown.of_child(str(child.digest), platform, str(self.reference)) from None
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
        """Parse a manifest and count its memory."""
        with parsing(len(body)):
            parsed = parse_manifest(body, content_type, what=what)
        named = parsed.manifests if isinstance(parsed, Index) else parsed.blobs
        urls = sum(len(url) + _URL_BYTES for one in named for url in one.urls)
        self.memory.hold(sum(len(one.data or "") for one in named) + urls, blobs=len(named))
        return parsed

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_FETCHERS, "manifests", initializer=self._cancellation.bind_thread)
