"""Decide whether a copy may change its target: `overwrite`, `immutable` and `on_move_upstream` of a request.

The decision is made up to three times: before the source is asked, before blobs are copied, and under the lease of the
tag, right before the tag moves. Only the last one is final. The others save requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mirror.errors import TagDrifted
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.rules import CopyOptions
from mirror.records.task import Skipped

MOVED: Final = "moved"
"""The reason of a copy that left its target alone because its source has moved."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """What a copy has found: the name of its source, the digest that it has, and the one that the tag would show.

    The digests differ if the mirror makes another image for the chosen platforms. While that is not made, both are that
    of the source.
    """

    source: str
    source_digest: Digest
    digest: Digest


def decide_overwrite(
    options: CopyOptions, target: LocalImage, shown: Digest | None, found: FoundImage | None
) -> Skipped | TagDrifted | None:
    """Return why the tag *target* is left alone, or None if the copy goes on. No I/O.

    *shown* is what the tag shows now, None if there is no such tag. *found* is None while the source was not asked. An
    immutable tag that its source has moved is an error, also if moves are only reported.

    If the decision `is_about_move`, the caller makes sure that the source has moved: the tag may show what the mirror
    has made of the same image for other platforms.
    """
    if shown is None or target.tag is None:
        return None
    if options.overwrite == "never":
        return Skipped("exists", f"The target '{target}' exists already and overwrite is 'never'")
    if found is None or found.digest == shown:
        return None
    if is_immutable(options, target):
        return TagDrifted(str(target), str(shown), str(found.digest))
    if options.on_move_upstream == "report":
        message = f"The source '{found.source}' now shows {found.source_digest} and the target keeps {shown}"
        return Skipped(MOVED, message, str(shown), str(found.source_digest))
    return None


def is_about_move(decision: Skipped | TagDrifted | None) -> bool:
    """Whether the decision says that the source has moved. A later change of the tag has asked the source since."""
    return isinstance(decision, TagDrifted) or (decision is not None and decision.reason == MOVED)


def is_guarded(options: CopyOptions, target: LocalImage) -> bool:
    """Whether the decision depends on what the tag shows. If not, the bucket need not be read."""
    if target.tag is None:
        return False
    return options.overwrite == "never" or options.on_move_upstream == "report" or is_immutable(options, target)


def is_immutable(options: CopyOptions, target: LocalImage) -> bool:
    """Whether the tag never moves to another digest once the mirror has it."""
    return target.tag is not None and any(pattern.matches(target.tag) for pattern in options.immutable)
