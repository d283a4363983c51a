"""Measure what a selection would copy, before a task of it is added: each missing blob once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import structlog

from mirror.catalog.confirm import Confirmer
from mirror.catalog.tag_change import TagChange
from mirror.copying.cancellation import Cancellation
from mirror.copying.copier import Copier
from mirror.copying.resolver import Resolver
from mirror.errors import ContentError, SelectionTooLarge, SourceError, TagDrifted
from mirror.oci.digest import Digest
from mirror.records.spec import CopySpec
from mirror.records.states import MOST_PLAN_BLOBS

_READERS: Final = 8
_LOG = structlog.get_logger(__name__)
_Sizes = list[tuple[bytes, int]]
"""Blobs: the first 128 bits of the digest, and the bytes."""


@dataclass(frozen=True, slots=True)
class SelectionMeter:
    """Measures selections. It reads manifests, and keeps them in the bucket where a plan does."""

    confirmer: Confirmer
    resolver: Resolver
    copier: Copier

    def require_at_most(
        self, limit: int, source: str, images: Iterable[Sequence[CopySpec]], cancellation: Cancellation
    ) -> None:
        """Raise SelectionTooLarge if the *images* of *source* need more than *limit* bytes. See `bytes_to_copy`."""
        found = self.bytes_to_copy(images, cancellation)
        if found > limit:
            raise SelectionTooLarge(source, found, "max_bytes", limit)

    def bytes_to_copy(self, images: Iterable[Sequence[CopySpec]], cancellation: Cancellation) -> int:
        """Return the bytes of all blobs that the *images* need and the bucket does not hold, each blob once.

        An image is given by its copies: one for each target. A few images are read at a time, so memory is bounded. Of
        more than `MOST_PLAN_BLOBS` distinct blobs, the others count each time, and the result is an upper bound.

        An image whose targets all stay as they are costs one HEAD and counts nothing. So does one that cannot be
        mirrored: its copy will say why. Raises OperationCanceled, and errors for which a task waits.
        """
        total, seen = 0, set[bytes]()
        for missing in self._in_parallel(images, cancellation):
            for start, size in missing:
                if start not in seen:
                    total += size
                    if len(seen) < MOST_PLAN_BLOBS:
                        seen.add(start)
        return total

    def _in_parallel(self, images: Iterable[Sequence[CopySpec]], cancellation: Cancellation) -> Iterator[_Sizes]:
        pending = deque[Future[_Sizes]]()
        with ThreadPoolExecutor(_READERS, "measure", initializer=cancellation.bind_thread) as pool:
            try:
                for copies in images:
                    pending.append(pool.submit(self._missing, copies, cancellation))
                    if len(pending) > _READERS:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _missing(self, copies: Sequence[CopySpec], cancellation: Cancellation) -> _Sizes:
        cancellation.check()
        reference, rules = copies[0].source, copies[0].options.platforms
        try:
            hint = self.resolver.digest(reference)
            if hint is not None and self._is_settled(copies, hint):
                return []
            with self.copier.manifest_memory(reference, cancellation) as memory:
                with self.resolver.resolving(reference, hint, cancellation, memory) as resolution:
                    digest = resolution.root.descriptor.digest
                    if resolution.skip_reason(rules) or (digest != hint and self._is_settled(copies, digest)):
                        return []
                    image = resolution.image(rules)
                survey = self.copier.survey(reference, image, copies[0].options.foreign_layers, cancellation)
        except (SourceError, ContentError) as error:
            if error.waits_for is not None:
                raise
            _LOG.info("an image of a selection cannot be measured", source=str(reference), reason=error.message)
            return []
        return [(bytes.fromhex(blob.digest.hex)[:16], blob.size) for blob in survey.plan.to_copy]

    def _is_settled(self, copies: Sequence[CopySpec], found: Digest) -> bool:
        """Whether no target changes if the source has *found*."""
        return all(self._stays(copy, found) for copy in copies)

    def _stays(self, copy: CopySpec, found: Digest) -> bool:
        try:
            if self.confirmer.left_alone(TagChange(copy.target, 0, ""), replace(copy, is_dry_run=True), found):
                return True
        except TagDrifted:
            return True
        return copy.options.overwrite != "always" and self.confirmer.shown(found, copy) is not None
