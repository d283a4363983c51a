"""Retag: point a tag at an image that the mirror holds already. No bytes move.

In another repository, the referrers of the image are listed too: its signatures, its SBOMs, and whatever else refers to
it, to its children or to a referrer. So an image that verifies where it was mirrored verifies under its new name. They
become readable before the tag moves, as in a copy.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Final

import structlog

from mirror.catalog.publish import Publisher
from mirror.catalog.reader import CatalogReader
from mirror.catalog.referrers import MAX_DEPTH, MAX_REFERRERS, ReferrerLists
from mirror.catalog.tag_change import Precondition, TagChanges, TagUpdate, require_allowed
from mirror.errors import ImageNotHeld, InvalidReference, NameTooLong, PreconditionFailed, TooManyReferrers
from mirror.locks.pins import Pins
from mirror.oci.digest import Digest
from mirror.oci.image import Image
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import MAX_NAME_LENGTH
from mirror.oci.referrer import Referrer, cosign_tags, fallback_tag
from mirror.storage.provenance import ImageProvenance, ProvenanceStore

_BY: Final = "retag"
"""Stands in the records of tags for the job that moved them."""
_READERS: Final = 16
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Attached:
    """A referrer of *subject*: an entry of its list, or a *tag* of cosign."""

    subject: Digest
    image: Image
    entry: Referrer | None = None
    tag: str | None = None


class Retagger:
    """Points tags at held images. Safe to share between threads. *public_host* is the mirror's own host name."""

    def __init__(
        self,
        public_host: str,
        changes: TagChanges,
        publisher: Publisher,
        reader: CatalogReader,
        lists: ReferrerLists,
        *,
        provenance: ProvenanceStore,
        pins: Pins,
    ) -> None:
        self._public_host = public_host
        self._changes = changes
        self._publisher = publisher
        self._reader = reader
        self._lists = lists
        self._provenance = provenance
        self._pins = pins

    def retag(self, target: LocalImage, source: LocalImage, *, allowed: Precondition) -> TagUpdate:
        """Point the tag *target* at what *source* holds, with its referrers.

        The image is pinned first, and only then looked for in the bucket. So the collector cannot delete it meanwhile,
        even if *source* is deleted. Raises InvalidInput for names that do not go together, ImageNotHeld,
        PreconditionFailed, TagBusy, BlobBeingDeleted, or what listing a referrer raises.
        """
        self._require_names(target, source)
        [change] = self._changes.take_numbers([(target, _BY)])
        image = self._reader.image(source)
        attached = self._attached(source.repository, image) if target.repository != source.repository else []
        with self._pinned([image, *(one.image for one in attached)]) as held:
            if not held >= image.sizes.keys():
                raise ImageNotHeld(str(source))
            if attached:
                require_allowed(target, self._changes.current(target), allowed)  # leaves no trace if it is refused
                self._attach(target.repository, source.repository, [one for one in attached if _is_whole(one, held)])
            origin = self._origin(source.repository, image.digest) or _unknown(str(source), image.digest)
            if target.repository != source.repository:  # the next job for the target looks for referrers itself
                origin = replace(origin, referrers=None)
            return self._publisher.publish(change, image, origin, allowed=allowed)

    def _require_names(self, target: LocalImage, source: LocalImage) -> None:
        if target.tag is None:
            hint = "Name a tag: 'team/redis:7'."
            raise InvalidReference(str(target), "only a tag can be pointed at an image", hint=hint)
        target.require_source(source.registry_component or "", str(source))
        name = f"{self._public_host}/{target.repository}"
        if len(name) > MAX_NAME_LENGTH:
            raise NameTooLong(name, MAX_NAME_LENGTH)

    @contextmanager
    def _pinned(self, images: Sequence[Image]) -> Iterator[AbstractSet[Digest]]:
        """Pin all that the images need for the block. Yields what of it is in the bucket."""
        holder = f"{_BY}-{secrets.token_hex(8)}"
        sizes = {digest: size for image in images for digest, size in image.sizes.items()}
        try:
            self._pins.pin(holder, list(sizes))
            yield self._reader.held(sizes)
        finally:
            self._pins.release(holder)

    def _attached(self, repository: str, image: Image) -> list[_Attached]:
        """Return the referrers of an image, of its children, and of those referrers. Raises TooManyReferrers."""
        found: list[_Attached] = []
        level = [manifest.descriptor.digest for manifest in image.manifests]
        seen = set(level)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="referrers") as pool:
            for _ in range(MAX_DEPTH):
                found += (new := list(chain.from_iterable(pool.map(partial(self._attached_to, repository), level))))
                if len(found) > MAX_REFERRERS:
                    raise TooManyReferrers.of_image(f"{repository}@{image.digest}", MAX_REFERRERS)
                level = [digest for digest in dict.fromkeys(one.image.digest for one in new) if digest not in seen]
                seen.update(level)
        return found

    def _attached_to(self, repository: str, subject: Digest) -> list[_Attached]:
        """Return what is listed of *subject*, and its tags of cosign. What another tool listed may be absent."""
        found = []
        for entry in self._lists.listed(repository, subject):
            with suppress(ImageNotHeld):
                found.append(_Attached(subject, self._image(repository, entry.digest), entry))
        for tag in cosign_tags(subject):
            if digest := self._changes.last_known(LocalImage(repository, tag)):
                with suppress(ImageNotHeld):
                    found.append(_Attached(subject, self._image(repository, digest), tag=tag))
        return found

    def _image(self, repository: str, digest: Digest) -> Image:
        return self._reader.image(LocalImage(repository, digest=digest))

    def _attach(self, repository: str, held_in: str, attached: Sequence[_Attached]) -> None:
        """Make the referrers readable in *repository*, and list them. Those of a referrer come before it.

        A tag of cosign that the repository has already stays as it is: it may hold other signatures.
        """
        listed: dict[Digest, list[Referrer]] = {}
        for one in reversed(attached):
            digest = one.image.digest
            origin = self._origin(held_in, digest) or _unknown(f"{held_in}@{digest}", digest)
            if one.entry:
                self._publisher.stage(LocalImage(repository, fallback_tag(one.subject)), one.image, origin)
                listed.setdefault(one.subject, []).append(one.entry)
            else:
                [change] = self._changes.take_numbers([(LocalImage(repository, one.tag), _BY)])
                with suppress(PreconditionFailed):
                    self._publisher.publish(change, one.image, origin, allowed=lambda current: current is None)
        for subject, entries in listed.items():
            self._lists.add(repository, subject, entries[::-1], by=_BY)

    def _origin(self, repository: str, digest: Digest) -> ImageProvenance | None:
        return self._provenance.image(repository, digest)


def _unknown(source: str, digest: Digest) -> ImageProvenance:
    return ImageProvenance(source=source, digest=digest, mirrored_at="", job="")


def _is_whole(attached: _Attached, held: AbstractSet[Digest]) -> bool:
    """Whether the bucket has all of the referrer. If not, it says so in the log."""
    is_whole = held >= attached.image.sizes.keys()
    if not is_whole:
        _LOG.warning("a referrer is left out, the bucket lacks a part of it", digest=str(attached.image.digest))
    return is_whole
