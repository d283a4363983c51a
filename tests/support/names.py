"""The name that an image gets if its job does not give it one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from mirror.copying.naming import TargetNamer
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.records.rules import CANONICAL_TARGET

_NAMER: Final = TargetNamer("m", datetime(2026, 11, 28, tzinfo=UTC))


def default_target(source: Reference) -> LocalImage:
    """Return the target of a source without one, as a job names it."""
    return _NAMER.target(CANONICAL_TARGET, source)
