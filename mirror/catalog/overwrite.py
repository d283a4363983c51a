"""Decide whether a copy may change its target: what `overwrite` and `immutable` of a request say.

The decision is made up to three times: before the source is asked, before blobs are copied, and under the lease of the
tag, right before the tag moves. Only the last one is final. The others save requests.
"""

from __future__ import annotations

from mirror.errors import TagDrifted
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.rules import CopyOptions
from mirror.records.task import Skipped


def decide_overwrite(
    options: CopyOptions, target: LocalImage, shown: Digest | None, found: Digest | None
) -> Skipped | TagDrifted | None:
    """Return why the tag *target* is left alone, or None if the copy goes on. No I/O.

    *shown* is what the tag shows now, None if there is no such tag. *found* is what the tag would show after the copy,
    None while that is not known. If the mirror rewrites images for their platforms, both may be what the sources had.
    """
    if shown is None or target.tag is None:
        return None
    if options.overwrite == "never":
        return Skipped("exists", f"The target '{target}' exists already and overwrite is 'never'")
    if found in (None, shown) or not is_immutable(options, target):
        return None
    return TagDrifted(str(target), str(shown), str(found))


def is_guarded(options: CopyOptions, target: LocalImage) -> bool:
    """Whether the decision depends on what the tag shows. If not, the bucket need not be read."""
    return target.tag is not None and (options.overwrite == "never" or is_immutable(options, target))


def is_immutable(options: CopyOptions, target: LocalImage) -> bool:
    """Whether the tag never moves to another digest once the mirror has it."""
    return target.tag is not None and any(pattern.matches(target.tag) for pattern in options.immutable)
