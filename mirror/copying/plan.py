"""Decide which blobs of an image must be copied. Pure, so that a dry run is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirror.errors import SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The blobs of an image that are not left out: to be copied, and held already.

    ``to_copy`` is sorted by size, the largest first. Blobs of unknown use come last, because the source may not serve
    them. ``contradicted`` are those of them that the bucket holds with another size.
    """

    to_copy: tuple[Descriptor, ...]
    held: tuple[Descriptor, ...]
    contradicted: tuple[Descriptor, ...] = ()


def plan_copy(image: Image, held: Mapping[Digest, int]) -> CopyPlan:
    """Split the image's blobs by what the bucket holds, given as digest to size in bytes.

    Raises SizeInvalid if two descriptors, or a descriptor and the bucket, disagree about a size.
    """
    wanted = image.blobs
    optional = {descriptor.digest for descriptor in image.optional_blobs}
    for descriptor in wanted:
        size = held.get(descriptor.digest, descriptor.size)
        if size != descriptor.size and descriptor.digest not in optional:
            raise SizeInvalid(str(descriptor.digest), descriptor.size, size)
    contradicted = {d.digest for d in wanted if held.get(d.digest, d.size) != d.size}
    missing = [d for d in wanted if d.digest not in held]
    return CopyPlan(
        to_copy=tuple(sorted(missing, key=lambda d: (d.digest not in optional, d.size), reverse=True)),
        held=tuple(d for d in wanted if d.digest in held and d.digest not in contradicted),
        contradicted=tuple(d for d in wanted if d.digest in contradicted),
    )
