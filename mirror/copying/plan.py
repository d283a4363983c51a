"""What must travel and what need not: pure, so that a dry run is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirror.errors import SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """The blobs of an image: to be copied, largest first; held already; and foreign, which no registry distributes."""

    to_copy: tuple[Descriptor, ...]
    held: tuple[Descriptor, ...]
    foreign: tuple[Descriptor, ...]


def plan_copy(image: Image, held: Mapping[Digest, int]) -> CopyPlan:
    """Split the image's blobs by what the bucket holds, given as digest -> size in bytes.

    Raises SizeInvalid if two descriptors, or a descriptor and the bucket, disagree about a size.
    """
    wanted = image.blobs
    for descriptor in wanted:
        size = held.get(descriptor.digest, descriptor.size)
        if size != descriptor.size:
            raise SizeInvalid(str(descriptor.digest), descriptor.size, size)
    missing = [d for d in wanted if d.digest not in held]
    return CopyPlan(
        to_copy=tuple(sorted(missing, key=lambda d: d.size, reverse=True)),
        held=tuple(d for d in wanted if d.digest in held),
        foreign=image.foreign_layers,
    )
