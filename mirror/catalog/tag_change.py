"""Changes of tags on their way: the place that each has in its tag's sequence, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from mirror.locks.lease import Lease, Leases
from mirror.locks.tag_sequence import TagSequence
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage


@dataclass(frozen=True, slots=True)
class TagChange:
    """A place in a tag's sequence; *by* names the change in ``superseded_by`` of those that it overtakes."""

    target: LocalImage
    number: int
    by: str

    @property
    def tag(self) -> tuple[str, str]:
        """Repository and tag."""
        return self.target.repository, str(self.target.tag)


@dataclass(frozen=True, slots=True)
class TagUpdate:
    """What became of a change: ``superseded_by`` if a later one was there first; of a re-tag also whether the tag was
    ``created``.
    """

    digest: Digest
    created: bool = False
    superseded_by: str | None = None


class LockedTags:
    """Tags whose leases are *held*, each with the digest that it is hoped to show; *shown* will tell which of them do.

    The bucket is asked for that behind the leases, so what it answers stands as long as they do.
    """

    def __init__(
        self,
        leases: Leases,
        sequence: TagSequence,
        held: Mapping[TagChange, tuple[Lease, Digest]],
        shown: Future[set[tuple[str, str]]],
    ) -> None:
        self._leases = leases
        self._sequence = sequence
        self._held = held
        self._shown = shown

    def confirm(self, wanted: Sequence[tuple[TagChange, Digest]]) -> list[TagUpdate | None]:
        """For each ticket what `Publisher.confirm` answers, in two turns. None also stands for a tag that is not held,
        or no more: a lease is renewed right before what it showed is made use of.

        Raises StorageUnavailable or StorageRefused if the bucket did not tell, or RedisUnavailable.
        """
        shown = self._shown.result()
        found = [(t, lease) for t, digest in wanted if t.tag in shown and (lease := self._lease_of(t, digest))]
        renewed = self._leases.renew_all([lease for _, lease in found])
        confirmed = [ticket for (ticket, _), is_held in zip(found, renewed, strict=True) if is_held]
        superseded = self._sequence.publish_all([(*ticket.tag, ticket.number, ticket.by) for ticket in confirmed])
        by = dict(zip(confirmed, superseded, strict=True))
        return [TagUpdate(digest, superseded_by=by[t]) if t in by else None for t, digest in wanted]

    def _lease_of(self, ticket: TagChange, digest: Digest) -> Lease | None:
        lease, hoped_for = self._held.get(ticket, (None, None))
        return lease if hoped_for == digest else None
