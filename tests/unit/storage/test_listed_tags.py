"""What a listing proves of a tag, decided without a server."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from mirror.oci.digest import Digest
from mirror.storage.bucket import ListedObject
from mirror.storage.links import digest_shown

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def link(digest: Digest, *, etag: str | None = None, after: float = 0, size: int = 71) -> ListedObject:
    """A link that holds *digest*, written so many seconds after noon."""
    own = hashlib.md5(str(digest).encode(), usedforsecurity=False).hexdigest()
    return ListedObject("key", own if etag is None else etag, size, NOON + timedelta(seconds=after))


def test_an_etag_proves_which_digest_of_its_history_a_tag_shows() -> None:
    history = {ONE: link(ONE), TWO: link(TWO)}
    assert digest_shown(link(TWO), history) == TWO
    assert digest_shown(link(ONE, after=3600), history) == ONE


def test_an_etag_of_something_else_proves_nothing() -> None:
    assert digest_shown(link(ONE, etag="0" * 32), {ONE: link(ONE)}) is None
    assert digest_shown(link(TWO), {ONE: link(ONE)}) is None
    assert digest_shown(link(ONE), {}) is None


def test_without_etags_the_only_digest_is_shown_if_both_were_written_together() -> None:
    history = {ONE: link(ONE, etag="")}
    assert digest_shown(link(ONE, etag="", after=2), history) == ONE
    assert digest_shown(link(ONE, etag="", after=-1), history) is None
    assert digest_shown(link(ONE, etag="", after=3600), history) is None
    assert digest_shown(link(ONE, etag="", after=2, size=72), history) is None


def test_without_etags_a_tag_of_two_digests_must_be_read() -> None:
    assert digest_shown(link(ONE, etag=""), {ONE: link(ONE, etag=""), TWO: link(TWO, etag="")}) is None
