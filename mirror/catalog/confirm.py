"""Confirm that a tag already shows what its source has, so that nothing is copied.

A source can name any digest in the response to a HEAD. So a tag is confirmed only for a source that is known to have
served the image, now or before. The index and the records of provenance say which sources did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from mirror.catalog.checked import CheckedTags
from mirror.catalog.entry import IndexedTag, is_current
from mirror.catalog.index import CatalogIndex
from mirror.catalog.overwrite import FoundImage, decide_overwrite, is_about_move, is_guarded
from mirror.catalog.relist import Relister
from mirror.catalog.tag_change import COMMIT_TIMEOUT, TagChange, TagChanges, TagUpdate
from mirror.errors import TagDrifted
from mirror.locks.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference
from mirror.oci.referrer import ReferrersSeen
from mirror.records.spec import CopySpec
from mirror.records.task import Skipped
from mirror.signatures.policy import SignatureVerdict
from mirror.storage.links import KeptStore, LinkStore
from mirror.storage.provenance import ProvenanceStore


class LockedTags:
    """Tags whose leases this process holds, while the bucket is read. *shown* will hold those that match the index.

    *locked* are the lease of each tag and the digest that the index lists. The bucket is read after the leases were
    taken, so what it showed stays true for as long as they are held.
    """

    def __init__(
        self,
        changes: TagChanges,
        checked: CheckedTags,
        locked: Mapping[TagChange, tuple[Lease, Digest]],
        shown: Future[set[tuple[str, str]]],
    ) -> None:
        self._changes = changes
        self._checked = checked
        self._locked = locked
        self._shown = shown

    def confirm(self, wanted: Sequence[tuple[TagChange, Digest]]) -> list[TagUpdate | None]:
        """Record for each change that its tag shows the digest already. None where that is not certain.

        A lease is renewed right before its tag is confirmed, and a tag whose lease was lost is not confirmed. Takes
        three round trips. Raises RedisUnavailable, or what reading the bucket raised.
        """
        shown = self._shown.result()
        found = [
            (change, lease)
            for change, digest in wanted
            if change.tag in shown and (lease := self._lease_of(change, digest))
        ]
        held = self._changes.renew([lease for _, lease in found])
        confirmed = [change for (change, _), is_held in zip(found, held, strict=True) if is_held]
        superseded_by = dict(zip(confirmed, self._changes.record(confirmed), strict=True))
        self._checked.note(change.tag for change in confirmed)
        return [
            TagUpdate(digest, superseded_by=superseded_by[change]) if change in superseded_by else None
            for change, digest in wanted
        ]

    def _lease_of(self, change: TagChange, digest: Digest) -> Lease | None:
        lease, indexed = self._locked.get(change, (None, None))
        return lease if indexed == digest else None


class Confirmer:
    """Confirms tags that are up to date, one or many. Safe to share between threads."""

    def __init__(
        self,
        changes: TagChanges,
        relister: Relister,
        index: CatalogIndex,
        checked: CheckedTags,
        *,
        links: LinkStore,
        kept: KeptStore,
        provenance: ProvenanceStore,
    ) -> None:
        self._changes = changes
        self._relister = relister
        self._index = index
        self._checked = checked
        self._links = links
        self._kept = kept
        self._provenance = provenance

    def indexed(self, targets: Sequence[LocalImage]) -> list[IndexedTag | None]:
        """Return for each target what the index lists of its tag. None if it is not listed, or has no tag."""
        found = self._index.indexed([(target.repository, target.tag or "") for target in targets])
        return [indexed if target.tag else None for target, indexed in zip(targets, found, strict=True)]

    @contextmanager
    def lock_tags(self, wanted: Sequence[tuple[TagChange, Digest]]) -> Iterator[LockedTags]:
        """Lock the tags that no other process has locked, and read in parallel which show their digest in the bucket.

        Takes one round trip to Redis for each step and few requests to S3. `LockedTags.confirm` waits for S3.
        """
        with self._changes.lock_available([change for change, _ in wanted]) as leases:
            locked = {change: (leases[change], digest) for change, digest in wanted if change in leases}
            digests = {change.tag: digest for change, (_, digest) in locked.items()}
            with ThreadPoolExecutor(1, thread_name_prefix="tags") as pool:
                shown = pool.submit(self._links.matching, digests, timeout=COMMIT_TIMEOUT)
                yield LockedTags(self._changes, self._checked, locked, shown)

    def existing(self, wanted: Mapping[LocalImage, Digest]) -> set[LocalImage]:
        """Return the tags that show these digests in the bucket. Takes few requests for many tags, and no lease."""
        digests = {(target.repository, str(target.tag)): digest for target, digest in wanted.items()}
        shown = self._links.matching(digests, timeout=COMMIT_TIMEOUT)
        return {target for target in wanted if (target.repository, str(target.tag)) in shown}

    def left_alone(self, change: TagChange, spec: CopySpec, found: Digest | None) -> TagUpdate | None:
        """Return the result for a target that the options of *spec* leave alone. None if the copy goes on.

        *found* is the digest at the source, None before it was asked. Nothing is recorded: to leave a tag alone is no
        change of it. A tag that the index does not list as it is gets listed: its copy may have died after the commit.
        Raises TagDrifted, or TagBusy.
        """
        target, options = change.target, spec.options
        if not is_guarded(options, target) or (found is None and options.overwrite != "never"):
            return None
        shown = self._changes.current(target)
        image = FoundImage(str(spec.source), found, found) if found else None
        decision = decide_overwrite(options, target, shown, image)
        if shown is None or decision is None:
            return None
        if isinstance(decision, TagDrifted) or is_about_move(decision):
            return self._moved(change, spec, found, shown, decision) if found else None
        if not spec.is_dry_run:
            self._relister.relist_unless_listed(target, shown)
        return TagUpdate(shown, skipped=decision)

    def _moved(
        self, change: TagChange, spec: CopySpec, found: Digest, shown: Digest, decision: Skipped | TagDrifted
    ) -> TagUpdate | None:
        """Return the result for a tag whose source seems to have moved it to *found*. None if it has not."""
        if by := self._changes.superseded_by(change):
            return TagUpdate(found, superseded_by=by)
        if self._provenance.made_from(change.target.repository, shown) == found:
            return None
        if not spec.is_dry_run:
            self._relister.relist_unless_listed(change.target, shown)
            self._checked.note([change.tag])
        if isinstance(decision, TagDrifted):
            raise decision
        return TagUpdate(shown, skipped=decision)

    def confirm(self, change: TagChange, digest: Digest, spec: CopySpec, *, served: bool = False) -> TagUpdate | None:
        """Record that the target of *change* shows *digest* already. None if it does not, or not completely.

        None also where the source of *spec* is not known to have served the digest. *served* says that it just did.
        What the index knows of that costs no request to S3.

        Where the index lists another digest, S3 is not asked. If the index is wrong, the image is published once more,
        and then the index is right.
        """
        target, source = change.target, spec.source
        if target.tag is None:
            return self._confirm_kept(target, digest, spec, served=served)
        repository, tag = target.repository, target.tag
        entry, is_built = self._index.look_up(repository, tag)
        held = entry.indexed if entry else None if is_built else self._held_in_bucket(target, digest, spec)
        is_known, is_listed = is_current(spec, digest, held), entry is not None
        if held and held.made_from == digest and held.satisfies(spec.options):
            into = repository if is_listed else None
            new = source if not is_known and self._has_served(source, digest, into, now=served) else None
            is_known = is_known or new is not None
            if is_known and (update := self._confirm_shown(change, held.digest, is_listed=is_listed, new_source=new)):
                return update
        by = self._changes.superseded_by(change)
        if by and (is_known or served or self._has_served(source, digest, repository)):
            return TagUpdate(digest, superseded_by=by)
        return None

    def _held_in_bucket(self, target: LocalImage, found: Digest, spec: CopySpec) -> IndexedTag | None:
        """Return what the index will list of the tag, if it shows what the source has *found*, or was made of that."""
        shown: Digest | None = found
        if spec.options.platforms.mode in ("rewrite", "single"):
            shown = self._links.current(target.repository, str(target.tag), timeout=COMMIT_TIMEOUT)
        return self._indexed(target.repository, shown) if shown else None

    def _indexed(self, repository: str, digest: Digest) -> IndexedTag:
        origin = self._provenance.image(repository, digest)
        if origin is None:
            return IndexedTag(digest, None, None)
        source_digest = None if origin.digest == digest else origin.digest
        platforms = origin.summary.platforms if origin.summary else ()
        held = IndexedTag(digest, origin.source, origin.job, (), source_digest, origin.platforms, platforms)
        return replace(held, foreign_layers=origin.foreign_layers)

    def _confirm_kept(self, target: LocalImage, digest: Digest, spec: CopySpec, *, served: bool) -> TagUpdate | None:
        held = self._kept_image(target, digest)
        if held is None or not held.satisfies(spec.options):
            return None
        is_known = is_current(spec, digest, held) or self._has_served(spec.source, digest, None, now=served)
        return TagUpdate(digest) if is_known else None

    def _kept_image(self, target: LocalImage, digest: Digest) -> IndexedTag | None:
        """Return what is known of an image that is kept by its digest, None if *digest* is another one."""
        is_held = target.digest == digest and self._links.has_revision(target.repository, digest)
        if not is_held or not self._kept.is_kept(target.repository, digest):
            return None
        return self._indexed(target.repository, digest)

    def note_referrers(
        self, target: LocalImage, digest: Digest, seen: ReferrersSeen | None, signature: SignatureVerdict | None
    ) -> None:
        """Record the referrers and the signature of an image that its target shows already. Raises TagBusy.

        The index gets both, unless the tag has moved, and the record of the image gets the signature.
        """
        if signature:
            with self._changes.lock_record(target.repository, digest):
                origin = self._provenance.image(target.repository, digest, timeout=COMMIT_TIMEOUT)
                if origin:
                    signed = replace(origin, signature=signature)
                    self._provenance.record_image(target.repository, digest, signed, timeout=COMMIT_TIMEOUT)
        if target.tag is None:
            return
        with self._changes.lock(target):
            entry = self._index.entry(target.repository, target.tag)
            if entry and entry.digest == str(digest):
                known = replace(entry, referrers=seen or entry.referrers, signature=signature or entry.signature)
                self._index.replace(known)

    def shown(self, digest: Digest, spec: CopySpec, *, served: bool = False) -> Digest | None:
        """Return what the target shows if `confirm` would find that it needs no copy of *digest*. Writes nothing."""
        target, repository = spec.target, spec.target.repository
        is_listed = False
        if target.tag is None:
            held = self._kept_image(target, digest)
        else:
            entry, is_built = self._index.look_up(repository, target.tag)
            held = entry.indexed if entry else None if is_built else self._held_in_bucket(target, digest, spec)
            is_listed = entry is not None
        if held is None or held.made_from != digest or not held.satisfies(spec.options):
            return None
        is_known = served or is_current(spec, digest, held)
        if not is_known and not self._has_served(spec.source, digest, repository if is_listed else None):
            return None
        if target.tag is None:
            return digest
        current = self._links.current(repository, target.tag, timeout=COMMIT_TIMEOUT)
        return current if current == held.digest else None

    def _confirm_shown(
        self, change: TagChange, digest: Digest, *, is_listed: bool, new_source: Reference | None
    ) -> TagUpdate | None:
        """Confirm the tag if it shows *digest*, under its lease. *new_source* is added to its entry.

        *digest* is what the mirror has made of the source's image. Without rules for platforms it is the same.
        """
        repository, tag = change.tag
        with self._changes.lock(change.target):
            if self._links.current(repository, tag, timeout=COMMIT_TIMEOUT) != digest:
                return None
            if not is_listed:
                self._relister.relist_locked(change.target, digest)
            if new_source and (entry := self._index.entry(repository, tag)) and not entry.indexed.is_from(new_source):
                self._index.replace(entry.found_at(new_source))
            [superseded_by] = self._changes.record([change])
            self._checked.note([change.tag])
            return TagUpdate(digest, superseded_by=superseded_by)

    def _has_served(self, source: Reference, digest: Digest, repository: str | None, *, now: bool = False) -> bool:
        """Whether *source* served the manifest, now or before. If it did *now*, that is written to the bucket."""
        if self._provenance.has_served(source, digest, into=repository):
            return True
        if now:
            self._provenance.record_blob_source(digest, source.registry, source.repository)
        return now
