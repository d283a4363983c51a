"""HTTP statuses that mean trouble, as errors; and how long a registry asks us to wait."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from mirror.errors import MirrorError, RateLimited, SourceFailed

DEFAULT_WAIT: Final = 60.0
LONGEST_WAIT: Final = 6 * 3600.0
"""Docker Hub's pull limit has windows of six hours; a registry that asks for more is asked again after that."""


class ServerFailed(SourceFailed):
    """A 5xx: the same request may succeed in a moment."""


def error_for_trouble(registry: str, status: int, headers: Mapping[str, str], *, what: str) -> MirrorError:
    """RateLimited for a 429, ServerFailed for a 5xx, SourceFailed for what the protocol does not foresee."""
    if status == 429:
        return RateLimited(registry, retry_after(headers))
    if status >= 500:
        return ServerFailed(registry, f"{what} {status}")
    return SourceFailed(registry, f"{what} {status}, which was not expected")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, from Retry-After in either of its forms (RFC 9110, 10.2.3), within bounds."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:10]), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return DEFAULT_WAIT
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)
