"""Require that an image was signed, before anything of it is copied.

The signatures of an image are few and small. They are read from the source and checked first. An image that was not
signed as its policies ask is not copied at all.

An image that was checked once is not checked again while its policies stay the same. Its digest is what was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from mirror.catalog.entry import IndexedTag
from mirror.copying.memory import ManifestMemory
from mirror.copying.platform_reader import read_small_blob
from mirror.copying.ports import Source
from mirror.copying.referrers import ReferrerFinder, Sighting
from mirror.copying.resolver import Resolver
from mirror.errors import ManifestUnknown, MediaTypeUnsupported
from mirror.jobs.claim import ClaimedCopy
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.records.spec import CopySpec
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.policy import SignatureVerdict
from mirror.signatures.roots import TrustedRoots
from mirror.signatures.verify import MAX_SIGNATURES, SignatureCandidate, check, may_be_signature, signature_tag


@dataclass(frozen=True, slots=True)
class SignatureRequirement:
    """Checks the signatures of images that are being mirrored. Safe to share between threads."""

    source: Source
    finder: ReferrerFinder
    resolver: Resolver
    policies: SignaturePolicies
    roots: TrustedRoots

    def is_satisfied(self, spec: CopySpec, held: IndexedTag | None) -> bool:
        """Return whether the image that a tag shows was checked by the same policies. No I/O."""
        wanted = self._key(spec)
        return wanted is None or (held is not None and held.signature is not None and held.signature.policy == wanted)

    def verify(self, task: ClaimedCopy, digest: Digest, memory: ManifestMemory) -> SignatureVerdict | None:
        """Return a signature of the image *digest* that satisfies the policies. None if no policy asks for one.

        Raises SignatureRequired, TrustedRootUnavailable, and what reading the source raises.
        """
        wanted = self.policies.of(task.spec.source, task.spec.options.signature)
        if not wanted:
            return None
        sighting = self.finder.look(task.spec.source, digest, task.claim.task.created_at)
        candidates = list(self._candidates(task, sighting, memory))
        now = self.finder.now()
        verdicts = [check(policy, digest, candidates, roots=self.roots, now=now) for policy in wanted]
        return replace(verdicts[-1], policy=str(self._key(task.spec)))

    def _key(self, spec: CopySpec) -> str | None:
        """Return a text that equal policies share, None without any policy."""
        wanted = self.policies.of(spec.source, spec.options.signature)
        return "+".join(sorted(policy.key for policy in wanted)) or None

    def _candidates(
        self, task: ClaimedCopy, sighting: Sighting, memory: ManifestMemory
    ) -> Iterator[SignatureCandidate]:
        """Read the manifests that may have signatures: that of cosign's tag first. Their layers are read when needed.

        One that the source does not have, or that is no manifest of an image, is no candidate.
        """
        for reference in self._references(task.spec.source, sighting, memory):
            task.cancellation.check()
            try:
                hint = self.resolver.digest(reference)
                with self.resolver.resolving(reference, hint, task.cancellation, memory) as resolution:
                    root = resolution.root
            except (ManifestUnknown, MediaTypeUnsupported):
                continue
            read = partial(read_small_blob, self.source, reference)
            yield SignatureCandidate(root, read, is_tagged=reference.tag is not None)

    def _references(self, reference: Reference, sighting: Sighting, memory: ManifestMemory) -> Iterator[Reference]:
        tag = signature_tag(sighting.subject)
        if tag in sighting.tags:
            yield replace(reference, tag=tag, digest=None)
        listed = filter(may_be_signature, self.finder.entries(reference, sighting, memory))
        for referrer in islice(listed, MAX_SIGNATURES):
            yield replace(reference, tag=None, digest=referrer.digest)
