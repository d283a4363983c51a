"""Resolve a reference to all manifests of its image. Each is fetched, checked and parsed. No layer is read.

An index with more children than one window of a pull limit allows is copied in several windows: see manifest_fetcher.py
for what is read from where.

With rules for platforms, a manifest that an index lists for another platform is never read, because that would cost
quota. See platforms.py for the rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, NamedTuple

from mirror.copying.cancellation import Cancellation
from mirror.copying.manifest_fetcher import ManifestFetcher, parsing
from mirror.copying.memory import ManifestMemory
from mirror.copying.platform_reader import PlatformReader
from mirror.copying.platforms import PlatformChoice, choose, does_match, shown_image, skip_reason
from mirror.copying.ports import Source
from mirror.errors import ManifestInvalid, MediaTypeUnsupported
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.manifest import Index
from mirror.oci.reference import Reference
from mirror.records.rules import ALL_PLATFORMS, PlatformRules
from mirror.storage.blobs import ManifestStore

_NO_MANIFEST: Final = "it attests something that is no manifest"
MAX_DEPTH: Final = 4
"""Levels of indexes above the manifests."""
MAX_MANIFESTS: Final = 2_000
MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""All manifests of one image together, because they are in memory at the same time."""


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
            fetcher = ManifestFetcher(reference, manifests, self._held, cancellation, memory)
            platforms = PlatformReader(reference, self._source, self._held, cancellation, memory)
            yield Resolution(reference, fetcher.root(hint), fetcher, platforms)


class SourceReads(NamedTuple):
    """How many *manifests* and *configs* of an image were read from its source.

    Of the manifests, *counted* ones count against a pull limit, and *kept* ones are in the bucket now for that reason.
    """

    manifests: int
    counted: int
    kept: int
    configs: int


class Resolution:
    """One image that is being read. ``root`` was read already."""

    def __init__(
        self, reference: Reference, root: ManifestContent, fetcher: ManifestFetcher, platforms: PlatformReader
    ) -> None:
        self.root = root
        self._reference = reference
        self._fetcher = fetcher
        self._platforms = platforms
        self._found: dict[Digest, ManifestContent] = {}
        self._fetched: dict[Digest, ManifestContent | None] = {root.descriptor.digest: root}

    @property
    def held(self) -> Sequence[Digest]:
        """The children that were read from the bucket."""
        return self._fetcher.held

    @property
    def reads(self) -> SourceReads:
        """What was read so far."""
        fetcher = self._fetcher
        return SourceReads(fetcher.fetched, fetcher.counted, fetcher.kept, len(self._platforms.fetched))

    def skip_reason(self, rules: PlatformRules) -> str | None:
        """Say why an image without an index is not wanted, None if it is. Reads its config if there are *rules*."""
        if not rules.only or isinstance(self.root.parsed, Index):
            return None
        self._platforms.learn([self.root])
        return skip_reason(str(self._reference), self._platforms.learned[self.root.descriptor.digest], rules)

    def image(self, rules: PlatformRules = ALL_PLATFORMS) -> Image:
        """Return the root with everything below it that *rules* choose, as the tag is to show it.

        Manifests are fetched level by level, several at a time. A level is fetched only if the pull limit of the source
        allows all of it. Raises SizeInvalid, PlatformUnknown, and what `Resolver.resolving` raises. The caller has
        called `skip_reason` before.
        """
        level, depth = [self.root], 0
        while level:
            depth += 1
            level = self._below(level, depth, rules)
        left_out = {**_schema_1_entries(self._found), **self._fetcher.left_out, **self._unchosen(rules)}
        image = Image(tuple(_children_first(self.root, self._found)), tuple(left_out.values()))
        if rules.only and isinstance(self.root.parsed, Index):
            if not does_match(image, rules, self._platforms.learned):
                self._platforms.learn(image.manifests)
            with parsing(sum(len(content.body) for content in image.split[1])):
                image = shown_image(str(self._reference), self._described(image), rules, self._platforms.learned)
        image.require_bounded()
        return image

    def _below(self, level: Sequence[ManifestContent], depth: int, rules: PlatformRules) -> list[ManifestContent]:
        """Fetch the children of a level that are not known yet.

        Entries whose platform only their config names come first. What depends on them comes in another round.
        """
        self._found.update((content.descriptor.digest, content) for content in level)
        if sum(len(content.body) for content in self._found.values()) > MAX_MANIFEST_BYTES:
            raise ManifestInvalid(
                str(self._reference), f"its manifests have more than {MAX_MANIFEST_BYTES} bytes together"
            )
        while children := self._children_of(level, rules):
            if depth > MAX_DEPTH:
                raise ManifestInvalid(str(self._reference), f"its indexes are nested more than {MAX_DEPTH} deep")
            if len(self._fetched) + len(children) > MAX_MANIFESTS:
                raise ManifestInvalid(str(self._reference), f"it has more than {MAX_MANIFESTS} manifests")
            self._fetched |= dict.fromkeys(children)
            fetched = self._fetcher.children(children)
            self._fetched |= {content.descriptor.digest: content for content in fetched}
            if rules.mode != "all":
                self._platforms.learn(fetched)
        chosen = dict.fromkeys(entry.digest for content in level for entry in self._choice(content, rules).chosen)
        below = (self._fetched.get(digest) for digest in chosen if digest not in self._found)
        return [content for content in below if content is not None]

    def _choice(self, content: ManifestContent, rules: PlatformRules) -> PlatformChoice:
        if isinstance(content.parsed, Index):
            return choose(content.parsed, rules, self._platforms.learned)
        return PlatformChoice(())

    def _children_of(self, level: Sequence[ManifestContent], rules: PlatformRules) -> dict[Digest, Descriptor]:
        """Return the entries that may be manifests, may be chosen, and were not requested yet."""
        found: dict[Digest, Descriptor] = {}
        for content in level:
            if not isinstance(content.parsed, Index):
                continue
            choice = self._choice(content, rules)
            possible = {entry.digest for entry in content.parsed.possible_manifests}
            for child in (*choice.chosen, *(entry for entry in choice.undecided if not entry.attested)):
                if child.digest in possible and child.digest not in self._fetched:
                    found.setdefault(child.digest, child)
        return found

    def _described(self, image: Image) -> Image:
        """Return the image with the platforms that only configs name, in the descriptors of its manifests."""
        learned = self._platforms.learned
        manifests = (
            replace(content, descriptor=replace(content.descriptor, platform=platform))
            if (platform := learned.get(content.descriptor.digest))
            else content
            for content in image.manifests
        )
        return replace(image, manifests=tuple(manifests))

    def _unchosen(self, rules: PlatformRules) -> dict[Digest, LeftOut]:
        """Return what the rules leave out of the indexes that were read.

        An attestation is left out, too, if what it attests is no manifest.
        """
        choices = [self._choice(content, rules) for content in self._found.values()]
        attestations = [LeftOut(entry, _NO_MANIFEST) for one in choices for entry in one.undecided if entry.attested]
        unchosen = [*attestations, *(entry for choice in choices for entry in choice.left_out)]
        return {entry.descriptor.digest: entry for entry in unchosen if entry.descriptor.digest not in self._found}


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
