"""What a listing proves of a tag, decided without a server."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from mirror.oci.digest import Digest
from mirror.storage.bucket import ListedObject
from mirror.storage.links import listed_digest

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def link(digest: Digest, *, etag: str | None = None, after: float = 0, size: int = 71) -> ListedObject:
    """A link that holds *digest*, written so many seconds after noon."""
    own = hashlib.md5(str(digest).encode(), usedforsecurity=False).hexdigest()
    return ListedObject("key", own if etag is None else etag, size, NOON + timedelta(seconds=after))


def test_an_etag_proves_which_digest_of_its_history_a_tag_shows() -> None:
    history = {ONE: link(ONE), TWO: link(TWO)}
    assert listed_digest(link(TWO), history) == TWO
    assert listed_digest(link(ONE, after=3600), history) == ONE


def test_an_etag_of_other_content_proves_nothing() -> None:
    assert listed_digest(link(ONE, etag="0" * 32), {ONE: link(ONE)}) is None
    assert listed_digest(link(TWO), {ONE: link(ONE)}) is None
    assert listed_digest(link(ONE), {}) is None


def test_without_etags_a_single_digest_is_proven_if_both_were_written_together() -> None:
    history = {ONE: link(ONE, etag="")}
    assert listed_digest(link(ONE, etag="", after=2), history) == ONE
    assert listed_digest(link(ONE, etag="", after=-1), history) is None
    assert listed_digest(link(ONE, etag="", after=3600), history) is None
    assert listed_digest(link(ONE, etag="", after=2, size=72), history) is None


def test_without_etags_a_tag_of_two_digests_must_be_read() -> None:
    assert listed_digest(link(ONE, etag=""), {ONE: link(ONE, etag=""), TWO: link(TWO, etag="")}) is None
