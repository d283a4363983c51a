"""List a source and choose: tags of a repository by the rules of a job, or all repositories of a wildcard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Final

from mirror.copying.cancellation import Cancellation
from mirror.copying.creation import read_created
from mirror.copying.naming import TargetNamer, needs_digest
from mirror.copying.selection import TagFacts, TagSelector, needs
from mirror.errors import ContentError, InvalidInput, NoRepositoryFound, NoTagSelected, SourceError
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.records.observations import Observation, ObservationStore
from mirror.records.selections import Choice
from mirror.records.spec import ExpandSpec
from mirror.registry.client import RegistryClient

THREADS: Final = 12
"""Threads that ask one registry about tags. Its limit of concurrent requests holds as well."""
TARGET_RULE: Final = "target"
"""The rule that drops tags which cannot have their targets."""
_PAGE: Final = 500
_FACTS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Chosen:
    """All that was listed, in the order of the list, with the rule that dropped it. *order* is that of ``latest``.

    *targets* are the names that the chosen tags get, each with its source.
    """

    choices: Sequence[Choice]
    dropped: dict[str, int]
    order: str | None = None
    targets: Sequence[tuple[str, str]] = ()

    def summary(self) -> dict[str, Any]:
        """Return what a task shows of the selection."""
        selected = sum(choice.rule is None for choice in self.choices)
        counts = {"listed": len(self.choices), "selected": selected, "dropped": self.dropped}
        return {**counts, "order": self.order}


class Chooser:
    """Lists sources and applies rules. A list that fails or is cut off is an error, never a shorter list.

    *now* returns the current time, against which ages are measured. Safe to share between threads.
    """

    def __init__(self, source: RegistryClient, observations: ObservationStore, now: Callable[[], datetime]) -> None:
        self._source = source
        self._observations = observations
        self._now = now

    def choose(self, spec: ExpandSpec, namer: TargetNamer, cancellation: Cancellation) -> Chosen:
        """Return what *spec* chooses. A tag that cannot have its target is dropped by the rule ``target``.

        Raises NoTagSelected, SelectionTooLarge, NoRepositoryFound or TargetRepeated, and what listing and reading a
        source raise.
        """
        if spec.source.is_wildcard:
            return self._repositories(spec.source)
        return self._tags(spec, namer, cancellation)

    def _repositories(self, source: RepositoryPattern) -> Chosen:
        found = [Choice(name) for name in self._source.repositories(source)]
        if not found:
            raise NoRepositoryFound(str(source))
        return Chosen(found, {})

    def _tags(self, spec: ExpandSpec, namer: TargetNamer, cancellation: Cancellation) -> Chosen:
        selector = self._listed(spec, cancellation)
        digests = self._decide(selector, spec, cancellation)
        selection = selector.result()
        try:
            selection.check(str(spec.source), spec.tags)
        except NoTagSelected:
            if not spec.may_be_empty:
                raise
        if any(map(needs_digest, spec.targets)):
            digests |= self._digests(spec, [tag for tag in selection.selected if tag not in digests], cancellation)
        sources = {tag: replace(spec.source.tagged(tag), digest=digests.get(tag)) for tag in selection.selected}
        assigned = namer.assign(((source, source.digest) for source in sources.values()), spec.targets)
        refused = {str(source.tag): name.message for source, name in assigned if isinstance(name, InvalidInput)}
        choices = [
            choice if choice.rule else _with_digest(choice, digests.get(choice.name), refused.get(choice.name))
            for choice in selection.choices
        ]
        dropped = selection.dropped | ({TARGET_RULE: len(refused)} if refused else {})
        targets = [(str(name), str(source)) for source, name in assigned if isinstance(name, LocalImage)]
        return Chosen(choices, dropped, spec.tags.latest.by if spec.tags.latest else None, targets)

    def _listed(self, spec: ExpandSpec, cancellation: Cancellation) -> TagSelector:
        """List all tags, and apply the rules about names."""
        selector = TagSelector(spec.tags, self._now())
        listed: set[str] = set()
        tags = self._source.tags(spec.source)
        while page := list(islice(tags, _PAGE)):
            cancellation.check()
            selector.add(page)
            listed.update(page)
        if spec.tags.min_age:
            self._observations.forget_others(spec.source, listed)
        return selector

    def _decide(self, selector: TagSelector, spec: ExpandSpec, cancellation: Cancellation) -> dict[str, Digest]:
        """Ask the source about the tags of which the rules need more than the name. Return their digests."""
        digests: dict[str, Digest] = {}
        while wanted := selector.wanted(_FACTS_AT_ONCE):
            for facts in self._facts(spec, wanted, cancellation):
                selector.decide(facts)
                if facts.digest:
                    digests[facts.tag] = facts.digest
        return digests

    def _digests(self, spec: ExpandSpec, tags: Sequence[str], cancellation: Cancellation) -> dict[str, Digest]:
        """Return the digest of each tag, for the names of their targets."""

        def look_up(tag: str) -> Digest | None:
            cancellation.check()
            return self._look_up(spec.source.tagged(tag)).digest

        with lookup_threads(cancellation) as threads:
            found = zip(tags, threads.map(look_up, tags), strict=True)
            return {tag: digest for tag, digest in found if digest}

    def _look_up(self, reference: Reference) -> TagFacts:
        """Return digest and media type of a tag: by a HEAD, or by a GET where a registry's HEADs are of no use."""
        tag = str(reference.tag)
        if head := self._source.head(reference):
            return TagFacts(tag, head.digest, head.media_type)
        with self._source.reading(reference) as manifests:
            manifest = manifests.get(reference)
        return TagFacts(tag, manifest.digest, manifest.media_type)

    def _facts(self, spec: ExpandSpec, tags: Sequence[str], cancellation: Cancellation) -> Iterator[TagFacts]:
        """Ask the source what the rules need to know of these tags."""
        needed = needs(spec.tags)

        def look_up(tag: str) -> TagFacts:
            cancellation.check()
            try:
                return self._look_up(spec.source.tagged(tag))
            except (SourceError, ContentError) as error:
                if error.waits_for:
                    raise
                return TagFacts(tag)

        def with_created(facts: TagFacts) -> TagFacts:
            cancellation.check()
            return self._with_created(spec.source, facts, seen.get(facts.tag))

        with lookup_threads(cancellation) as threads:
            found = list(threads.map(look_up, tags))
            seen: dict[str, Observation] = {}
            if needed & {"first_seen", "created"}:
                shown = {facts.tag: facts.digest for facts in found if facts.digest}
                seen = self._observations.observe(spec.source, shown, self._now())
            if "first_seen" in needed:
                found = [
                    replace(facts, first_seen=seen[facts.tag].first_seen if facts.tag in seen else None)
                    for facts in found
                ]
            if "created" in needed:
                found = list(threads.map(with_created, found))
        yield from found

    def _with_created(self, source: RepositoryPattern, facts: TagFacts, known: Observation | None) -> TagFacts:
        if known and known.created:
            return replace(facts, created=known.created)
        created = read_created(self._source, replace(source.tagged(facts.tag), digest=facts.digest))
        if created and facts.digest:
            self._observations.note_created(source, facts.tag, facts.digest, created)
        return replace(facts, created=created)


def _with_digest(choice: Choice, digest: Digest | None, refused: str | None) -> Choice:
    if refused:
        return Choice(choice.name, TARGET_RULE, refused)
    return replace(choice, digest=str(digest)) if digest else choice


@contextmanager
def lookup_threads(cancellation: Cancellation) -> Iterator[ThreadPoolExecutor]:
    """Threads that ask a source for the work of one task. After an error, requests that wait are not sent."""
    pool = ThreadPoolExecutor(THREADS, "lookup", initializer=cancellation.bind_thread)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown()
