"""From a reference to the whole tree below it: every manifest fetched, checked and parsed, no blob touched.

Where the registry has a pull limit, manifests are read from the bucket if it holds them, and put there as soon as they
are fetched: an image that is tagged once more costs nothing, nor does one whose task had to wait and begins again, and
an index of more children than a whole window allows comes in several of them. Whatever is there is what its digest
says, and that the source has it under this digest has just been told by its HEAD or by its index.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Final

from mirror.copying.interruption import Interruption
from mirror.copying.memory import ManifestMemory
from mirror.copying.source import ManifestReader, Source
from mirror.errors import ManifestInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.index import Index
from mirror.oci.manifest import Manifest
from mirror.oci.parsing import MAX_MANIFEST_SIZE, parse_manifest
from mirror.oci.reference import Reference
from mirror.oci.verification import verify
from mirror.storage.blobs import BlobStore

MAX_DEPTH: Final = 4
"""Levels of indexes above the manifests."""
MAX_MANIFESTS: Final = 2_000
MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""All manifests of one image together, since they are in memory at once."""
_FETCHERS: Final = 8
_LARGE: Final = 256 * 1024
_PARSING: Final = threading.Lock()


class Resolver:
    """Reads the manifests of one image."""

    def __init__(
        self, source: Source, blobs: BlobStore, interruption: Interruption, memory: ManifestMemory | None = None
    ) -> None:
        """*memory* is told of every manifest that is held, before it is read as far as its size is known."""
        self._source = source
        self._blobs = blobs
        self._interruption = interruption
        self._memory = memory

    def digest(self, reference: Reference) -> Digest | None:
        """What the reference is now, asked with a HEAD: that costs no Docker Hub quota. None if it won't say."""
        return reference.digest or self._source.head_manifest(reference)

    def image(self, reference: Reference, digest: Digest | None) -> Image:
        """The image that *reference* names, or that *digest*, which it was found to be, names in its repository.

        Raises ManifestUnknown, ManifestInvalid, MediaTypeUnsupported, DigestMismatch, SizeInvalid, or what the source
        raises. Manifests are fetched level by level, several at a time; a level is begun only if the pull limit of the
        source allows all of it.
        """
        asked = replace(reference, digest=digest) if digest else reference
        found: dict[Digest, ManifestContent] = {}
        with self._source.reading(asked) as manifests:
            level: list[ManifestContent] = [self._root(asked, manifests)]
            levels = [level]
            while level := self._below(reference, level, found, manifests, depth=len(levels)):
                levels.append(level)
        image = Image(tuple(_children_first(levels[0][0], found)))
        image.require_bounded()
        return image

    def _root(self, reference: Reference, manifests: ManifestReader) -> ManifestContent:
        if reference.digest and (body := self._held([reference.digest], manifests).get(reference.digest)):
            self._hold(len(body))
            parsed = self._parsed(body, None, what=str(reference))
            return ManifestContent(Descriptor(parsed.media_type, reference.digest, len(body)), body, parsed)
        remote = manifests.get(reference)
        self._hold(len(remote.body))
        parsed = self._parsed(remote.body, remote.media_type, what=str(reference))
        descriptor = Descriptor(parsed.media_type, remote.digest, len(remote.body))
        self._keep(descriptor, remote.body, manifests)
        return ManifestContent(descriptor, remote.body, parsed)

    def _below(
        self,
        reference: Reference,
        level: Sequence[ManifestContent],
        found: dict[Digest, ManifestContent],
        manifests: ManifestReader,
        *,
        depth: int,
    ) -> list[ManifestContent]:
        """Fetch the children of a level that were not met yet."""
        found.update((content.descriptor.digest, content) for content in level)
        if sum(len(content.body) for content in found.values()) > MAX_MANIFEST_BYTES:
            raise ManifestInvalid(str(reference), f"its manifests have more than {MAX_MANIFEST_BYTES} bytes together")
        children = {
            child.digest: child
            for content in level
            if isinstance(content.parsed, Index)
            for child in content.parsed.children
            if child.digest not in found
        }
        if not children:
            return []
        if depth > MAX_DEPTH:
            raise ManifestInvalid(str(reference), f"its indexes are nested more than {MAX_DEPTH} deep")
        if len(found) + len(children) > MAX_MANIFESTS:
            raise ManifestInvalid(str(reference), f"it has more than {MAX_MANIFESTS} manifests")
        self._hold(sum(min(child.size, MAX_MANIFEST_SIZE) for child in children.values()))
        held = self._held(children, manifests)
        manifests.expect(len(children) - len(held))

        def content(child: Descriptor) -> ManifestContent:
            body = held.get(child.digest)
            return self._checked(child, body, None) if body is not None else self._child(reference, child, manifests)

        with self._threads() as pool:
            return list(pool.map(content, children.values()))

    def _child(self, reference: Reference, child: Descriptor, manifests: ManifestReader) -> ManifestContent:
        self._interruption.check()
        remote = manifests.get(replace(reference, digest=child.digest), expect=child)
        content = self._checked(child, remote.body, remote.media_type)
        self._keep(child, remote.body, manifests)
        return content

    def _held(self, digests: Iterable[Digest], manifests: ManifestReader) -> dict[Digest, bytes]:
        """Those that the bucket holds, where reading them from the registry would cost."""
        if not manifests.is_limited():
            return {}
        with self._threads() as pool:
            found = list(pool.map(lambda digest: (digest, self._read(digest)), digests))
        return {digest: body for digest, body in found if body is not None}

    def _read(self, digest: Digest) -> bytes | None:
        body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
        return body if body is not None and Digest.of(body, digest.algorithm) == digest else None

    def _keep(self, descriptor: Descriptor, body: bytes, manifests: ManifestReader) -> None:
        if manifests.is_limited():
            self._blobs.put(verify(body, descriptor), body)

    def _checked(self, child: Descriptor, body: bytes, content_type: str | None) -> ManifestContent:
        """A child of an index, if it is of the media type that its index says."""
        parsed = self._parsed(body, content_type or child.media_type, what=str(child.digest))
        if parsed.media_type != child.media_type:
            raise ManifestInvalid(str(child.digest), f"its index says it is '{child.media_type}'")
        return ManifestContent(child, body, parsed)

    def _parsed(self, body: bytes, content_type: str | None, *, what: str) -> Manifest | Index:
        """Parse a manifest and count what it names. Large ones take their turn, since JSON needs ten times its size."""
        with _PARSING if len(body) > _LARGE else nullcontext():
            parsed = parse_manifest(body, content_type, what=what)
        self._hold(0, blobs=len(parsed.manifests if isinstance(parsed, Index) else parsed.blobs))
        return parsed

    def _hold(self, size: int, *, blobs: int = 0) -> None:
        if self._memory is not None:
            self._memory.hold(size, blobs=blobs)

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_FETCHERS, "manifests", initializer=self._interruption.adopt)


def _children_first(root: ManifestContent, found: dict[Digest, ManifestContent]) -> list[ManifestContent]:
    """Post-order over the tree, each manifest once: the order in which they may become visible."""
    ordered: dict[Digest, ManifestContent] = {}

    def walk(content: ManifestContent) -> None:
        if isinstance(content.parsed, Index):
            for child in content.parsed.children:
                if child.digest not in ordered:
                    walk(found[child.digest])
        ordered[content.descriptor.digest] = content

    walk(root)
    return list(ordered.values())
