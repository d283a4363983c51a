"""The release of an atomic job: move the tags of all its images together, or none of them.

1. Lock the release of the job, by taking its one lease.
2. Lock all tags, in the order of their names. Read what each shows, and which change of it was recorded last.
3. Stop if a later change of a tag was recorded, or if the options of the job forbid to move a tag that exists. A tag
   that shows the wanted image already is no obstacle.
4. Write the journal: for each tag what it shows, and what it will show (mirror.storage.releases).
5. Write the tags' histories, and then all ``current/link`` in parallel. Each is fenced as a single change is
   (tag_change.py): the lease is renewed right before, readers ask the bucket, and the PUT ends well before the lease.
6. List the tags in the index, record the changes in the tags' sequences, delete the journal, give the leases back.

So a reader sees only the old images before step 5, and only the new ones after it. In between it may see both kinds.

- A process that dies before step 4 has changed nothing.
- After step 4 the journal says what is to be done, and the next process does it. With the state ``moving`` it moves
  the tags that were not moved yet. With ``undoing`` it moves back those that were.
- An error that a task waits for leaves the journal as it is: the next attempt goes on. An error that fails the task,
  such as a refusal of S3, writes ``undoing`` to the journal first, and then undoes the release.
- A job that ended as failed or canceled with a journal that says ``moving`` is undone. That happens if its worker was
  lost too often, or if it was canceled while no worker had it.
- Without a job, because Redis lost it, the journal alone decides. A tag that was changed since is left alone then.

A change with a higher number that came after the journal wins, whatever becomes of the release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Final, Literal

import structlog

from mirror.background import BackgroundLoop
from mirror.catalog.overwrite import decide_overwrite, is_about_move
from mirror.catalog.released_images import ReleasedImages, StagedTag
from mirror.catalog.tag_change import COMMIT_TIMEOUT, LEASE_SECONDS, TagChange, TagChanges
from mirror.errors import (
    MirrorError,
    RedisUnavailable,
    ReleaseBusy,
    ReleaseSuperseded,
    StorageUnavailable,
    TagBusy,
    TagDrifted,
)
from mirror.locks.lease import Lease, Leases
from mirror.locks.tag_sequence import Publication
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.fields import at
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.storage.disk import LocalDisk
from mirror.storage.links import LinkStore
from mirror.storage.releases import ReleaseJournal, ReleaseJournals, TagMove

_WRITERS: Final = 16
_ROUNDS: Final = 3
"""How often a write that S3 failed is tried in one attempt of the release."""
_LOCK_TIMEOUT: Final = 10.0
_LOG = structlog.get_logger(__name__)

ReleaseFate = Literal["open", "moving", "undoing", "lost"]
"""What the job of a journal asks for: nothing yet, to finish the release, or to undo it. ``lost``: there is no job."""


@dataclass(frozen=True, slots=True)
class SeenTag:
    """What a tag shows in the bucket, None if there is no such tag, and the last change that was recorded for it.

    *made_from* is what the source had of the image that it shows. It is read where only moves of the source matter.
    """

    shown: Digest | None
    last: Publication | None
    made_from: Digest | None = None

    def is_unchanged_since(self, move: TagMove, job: str) -> bool:
        """Return whether no change but that of *job* was recorded after its journal. True after Redis lost all."""
        last = (self.last.number, self.last.by) if self.last else (0, "")
        return last in ((0, ""), (move.last_number, move.last_by), (move.number, job))


@dataclass(frozen=True, slots=True)
class _LockedTags:
    """The tags of a release while their leases are held: by repository and tag, the lease and what was seen."""

    leases: Mapping[tuple[str, str], Lease]
    seen: Mapping[tuple[str, str], SeenTag]


class Releaser:
    """Moves the tags of atomic jobs, and finishes or undoes what dead processes have begun. Safe to share."""

    def __init__(
        self,
        redis: Redis,
        disk: LocalDisk,
        leases: Leases,
        changes: TagChanges,
        images: ReleasedImages,
        links: LinkStore,
        journals: ReleaseJournals,
    ) -> None:
        self._redis = redis
        self._disk = disk
        self._leases = leases
        self._changes = changes
        self._images = images
        self._links = links
        self._journals = journals

    def require_latest(self, staged: Sequence[StagedTag]) -> None:
        """Raise ReleaseSuperseded if a later change of a tag is known already. It may still come until the release."""
        published = self._changes.published([tag.change for tag in staged])
        for tag, last in zip(staged, published, strict=True):
            if last and last.number > tag.change.number:
                seen = SeenTag(self._changes.current(tag.change.target), last)
                require_movable(tag, _with_source(self._images, tag, seen))

    def release(self, job: str, staged: Sequence[StagedTag], begin: Callable[[], None]) -> int:
        """Move all tags. Return the milliseconds from the first of the writes that move them to the last one.

        *begin* is called before anything is changed, and may raise. If another process began the release, its journal
        counts instead of *staged*, and the time since then is returned. Raises ReleaseBusy, TagBusy,
        StorageUnavailable or RedisUnavailable if the release is to be tried again. After any other error no tag has
        moved, or the scheduler will move those back that have.
        """
        with self._alone(job) as lease:
            journal = self._journals.read(job)
            if journal and journal.state == "undoing":
                begin()
                with self._locked(_changes_of(journal)) as tags:
                    self._undo(journal, tags, lease)
                journal = None
            changes = _changes_of(journal) if journal else [tag.change for tag in staged]
            with self._locked(changes) as tags:
                begin()
                if journal is None:
                    journal = self._plan(job, staged, tags.seen)
                    self._write(journal, lease)
                    return self._move_or_undo(journal, tags, lease)
                self._move_or_undo(self._refresh(journal, tags, lease), tags, lease)
                return max(0, self._redis.now() - int(journal.started_at.timestamp() * 1000))

    def recover(self, job: str, fate: Callable[[], ReleaseFate]) -> None:
        """Finish or undo the release of a job that no worker works on any more, as its *fate* and its journal say.

        Does nothing without a journal. Raises what `release` raises.
        """
        with self._alone(job) as lease:
            journal, decided = self._journals.read(job), fate()
            if journal is None or decided == "open":
                return
            if decided == "undoing" and journal.state == "moving":
                journal = replace(journal, state="undoing")
                self._write(journal, lease)
            with self._locked(_changes_of(journal)) as tags:
                if journal.state == "undoing":
                    self._undo(journal, tags, lease)
                else:
                    self._move(journal, tags, lease, is_lost=decided == "lost")

    @contextmanager
    def _alone(self, job: str) -> Iterator[Lease]:
        """Hold the lease of the job's release. Raises ReleaseBusy if another process holds it for long."""
        with self._leases.holding(keys.release_lease(job), LEASE_SECONDS, patience=_LOCK_TIMEOUT) as lease:
            if lease is None:
                raise ReleaseBusy(job)
            with _renewed(lambda: self._leases.renew(lease)):
                yield lease

    @contextmanager
    def _locked(self, changes: Sequence[TagChange]) -> Iterator[_LockedTags]:
        """Hold the leases of all tags for the block, and read what the tags show under them."""
        with self._changes.lock_all(changes) as leases, _renewed(lambda: self._changes.renew(list(leases.values()))):
            yield _LockedTags({change.tag: lease for change, lease in leases.items()}, _look(self._changes, changes))

    def _plan(self, job: str, staged: Sequence[StagedTag], seen: Mapping[tuple[str, str], SeenTag]) -> ReleaseJournal:
        """Return the journal of a release that begins now. Raises ReleaseSuperseded or TagDrifted."""
        moves: list[TagMove] = []
        for tag in staged:
            now = _with_source(self._images, tag, seen[tag.change.tag])
            require_movable(tag, now)
            last = (now.last.number, now.last.by) if now.last else (0, "")
            moves.append(TagMove(*tag.change.tag, now.shown, tag.digest, tag.change.number, *last))
        return ReleaseJournal(job, "moving", at(self._redis.now()), tuple(moves))

    def _refresh(self, journal: ReleaseJournal, tags: _LockedTags, lease: Lease) -> ReleaseJournal:
        """Note in the journal what tags show that an earlier change has moved since, so that an undo keeps that."""
        moves = tuple(refreshed(move, tags.seen[move.name], journal.job) for move in journal.moves)
        if moves == journal.moves:
            return journal
        fresh = replace(journal, moves=moves)
        self._write(fresh, lease)
        return fresh

    def _move_or_undo(self, journal: ReleaseJournal, tags: _LockedTags, lease: Lease) -> int:
        """Move the tags. After an error that fails the task, undo that first."""
        try:
            return self._move(journal, tags, lease)
        except RedisUnavailable:
            raise
        except MirrorError as error:
            if error.waits_for is not None:
                raise
            _LOG.warning("the release is undone", job_id=journal.job, code=error.code, reason=error.message)
            undoing = replace(journal, state="undoing")
            self._write(undoing, lease)
            self._undo(undoing, tags, lease)
            raise

    def _move(self, journal: ReleaseJournal, tags: _LockedTags, lease: Lease, *, is_lost: bool = False) -> int:
        """Move the tags, and end the release. Return the milliseconds that the moves took.

        A tag that an earlier attempt has moved is written again, so that readers no longer ask the bucket for it.
        """
        job = journal.job
        due = [move for move in journal.moves if is_due(move, tags.seen[move.name], job, is_lost=is_lost)]
        moving = [move for move in due if move.before != move.after or tags.seen[move.name].shown != move.after]
        _write_all(moving, lambda move: self._links.add_to_history(*move.name, move.after, timeout=COMMIT_TIMEOUT))
        began = monotonic()
        _write_all(moving, lambda move: self._set(job, move, move.after, tags))
        window = round((monotonic() - began) * 1000)
        self._disk.sync()
        _write_all(due, lambda move: self._images.put_entry(LocalImage(*move.name), move.after))
        if not is_lost:
            self._record(job, due, tags)
        self._end(journal, lease)
        facts = {"moved": len(moving), "window_ms": window}
        _LOG.info("release complete", job_id=job, tags=len(journal.moves), **facts)
        return window

    def _record(self, job: str, moves: Sequence[TagMove], tags: _LockedTags) -> None:
        """Record the changes in the sequences of the tags. Raises TagBusy if a lease was lost."""
        held = self._changes.renew([tags.leases[move.name] for move in moves])
        for move, is_held in zip(moves, held, strict=True):
            if not is_held:
                raise TagBusy(str(LocalImage(*move.name)))
        self._changes.record([_change(job, move) for move in moves])

    def _undo(self, journal: ReleaseJournal, tags: _LockedTags, lease: Lease) -> None:
        """Let the tags show again what they showed before, and end the release.

        A tag that another change has moved since is left alone. Nothing is recorded in the sequences, so that no change
        that is under way is superseded by one that never was.
        """
        job, seen = journal.job, _look(self._changes, _changes_of(journal))
        own = [move for move in journal.moves if is_undoable(move, seen[move.name], job)]
        _write_all(own, lambda move: self._set(job, move, move.before, tags))
        _write_all(own, lambda move: self._images.relist(LocalImage(*move.name), move.before))
        _write_all([move for move in own if move.before is None], lambda move: self._links.delete_history(*move.name))
        self._disk.sync()
        self._end(journal, lease)
        moved_back = sum(seen[move.name].shown != move.before for move in own)
        _LOG.warning("release undone", job_id=job, tags=len(journal.moves), moved_back=moved_back)

    def _set(self, job: str, move: TagMove, digest: Digest | None, tags: _LockedTags) -> None:
        """Point one tag at *digest*, or delete it, as a single change does."""
        with self._changes.changing(_change(job, move), tags.leases[move.name], digest):
            if digest is None:
                self._links.delete_tag(*move.name, timeout=COMMIT_TIMEOUT)
            else:
                self._links.set_current(*move.name, digest, timeout=COMMIT_TIMEOUT)

    def _write(self, journal: ReleaseJournal, lease: Lease) -> None:
        """Write the journal, and bring it to the disk. Raises ReleaseBusy if the lease of the release was lost."""
        if not self._leases.renew(lease):
            raise ReleaseBusy(journal.job)
        self._journals.write(journal, timeout=COMMIT_TIMEOUT)
        self._disk.sync()

    def _end(self, journal: ReleaseJournal, lease: Lease) -> None:
        if not self._leases.renew(lease):
            raise ReleaseBusy(journal.job)
        self._journals.delete(journal.job, timeout=COMMIT_TIMEOUT)


def require_movable(tag: StagedTag, seen: SeenTag) -> None:
    """Raise an error unless the tag may move, or shows the wanted image already. No I/O.

    Raises ReleaseSuperseded if a later change was recorded, or if the tag exists now and may not be overwritten: when
    its image was staged, it could move. Raises TagDrifted for an immutable tag. To move the other tags without this one
    would make a mix that no task has reported.
    """
    target, last = tag.change.target, seen.last
    if seen.shown == tag.digest:
        return
    if last and last.number > tag.change.number:
        raise ReleaseSuperseded(str(target), last.by)
    decision = decide_overwrite(tag.options, target, seen.shown, tag.found)
    if isinstance(decision, TagDrifted):
        raise decision
    if decision and not (is_about_move(decision) and seen.made_from == tag.found.source_digest):
        raise ReleaseSuperseded(str(target), last.by if last else "another program")


def is_due(move: TagMove, seen: SeenTag, job: str, *, is_lost: bool) -> bool:
    """Whether the release still decides what the tag shows. Else a later change does. No I/O.

    After Redis lost its data, numbers mean nothing: then a change by anyone else counts as a later one.
    """
    if is_lost:
        return seen.is_unchanged_since(move, job) and seen.shown in (move.before, move.after)
    return seen.last is None or seen.last.number <= move.number


def refreshed(move: TagMove, seen: SeenTag, job: str) -> TagMove:
    """Return the move as it begins now, if another change that does not supersede it came after its journal. No I/O."""
    is_known = seen.is_unchanged_since(move, job) and seen.shown in (move.before, move.after)
    if is_known or not is_due(move, seen, job, is_lost=False):
        return move
    last = (seen.last.number, seen.last.by) if seen.last else (0, "")
    return replace(move, before=seen.shown, last_number=last[0], last_by=last[1])


def is_undoable(move: TagMove, seen: SeenTag, job: str) -> bool:
    """Return whether no change followed the release, which may have moved the tag or not. No I/O."""
    return move.before != move.after and seen.is_unchanged_since(move, job) and seen.shown in (move.before, move.after)


def _look(tag_changes: TagChanges, changes: Sequence[TagChange]) -> dict[tuple[str, str], SeenTag]:
    """Return for each tag what it shows in the bucket, and its last recorded change."""
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="release") as pool:
        shown = list(pool.map(lambda change: tag_changes.current(change.target), changes))
    published = tag_changes.published(changes)
    return {change.tag: SeenTag(digest, last) for change, digest, last in zip(changes, shown, published, strict=True)}


def _with_source(images: ReleasedImages, tag: StagedTag, seen: SeenTag) -> SeenTag:
    """Return the tag with what its source had, if its job only reports moves and the tag would move."""
    if tag.options.on_move_upstream == "follow" or seen.shown is None or seen.shown == tag.digest:
        return seen
    return replace(seen, made_from=images.made_from(tag.change.target, seen.shown))


def _change(job: str, move: TagMove) -> TagChange:
    return TagChange(LocalImage(*move.name), move.number, job)


def _changes_of(journal: ReleaseJournal) -> list[TagChange]:
    return [_change(journal.job, move) for move in journal.moves]


@contextmanager
def _renewed(renew: Callable[[], object]) -> Iterator[None]:
    """Renew leases during the block. One that was lost is not taken again: what needs it finds out."""

    def step() -> bool:
        renew()
        return True

    loop = BackgroundLoop("release-leases", LEASE_SECONDS / 4, step).start()
    try:
        yield
    finally:
        loop.end()


def _write_all(moves: Sequence[TagMove], write: Callable[[TagMove], object]) -> None:
    """Write for each tag, in parallel. Repeat the writes that S3 failed, at most `_ROUNDS` times in all.

    Raises an error after all writes have ended. Then some have not been made.
    """
    left, errors = list(moves), list[Exception]()
    for _ in range(_ROUNDS):
        left, errors = _write_round(left, write)
        if fatal := [error for error in errors if not isinstance(error, StorageUnavailable)]:
            raise fatal[0]
        if not left:
            return
    raise errors[0]


def _write_round(moves: Sequence[TagMove], write: Callable[[TagMove], object]) -> tuple[list[TagMove], list[Exception]]:
    """Write once for each tag. Return the tags that are left, and the errors.

    Ends early when as many writes have failed as run in parallel.
    """
    left: list[TagMove] = []
    errors: list[Exception] = []

    def attempt(move: TagMove) -> None:
        try:
            if len(errors) < _WRITERS:
                write(move)
                return
        except Exception as error:  # noqa: BLE001 - returned, after all writes have ended
            errors.append(error)
        left.append(move)

    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="release") as pool:
        list(pool.map(attempt, moves))
    return left, errors
