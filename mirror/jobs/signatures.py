"""Require that an image is signed, before any of its layers is copied.

The signatures are read from the source, and nothing of them is stored. They are mirrored later, with the other
referrers of the image, if its job wants those.

An image that was checked once is not checked again while its policies stay the same. Its digest is what was signed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from mirror.catalog.entry import IndexedTag
from mirror.copying.memory import ManifestMemory
from mirror.copying.ports import Source
from mirror.copying.referrers import ReferrerFinder
from mirror.copying.resolver import Resolver
from mirror.jobs.claim import ClaimedCopy
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.reference import Reference
from mirror.records.spec import CopySpec
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.policy import SignatureVerdict, key_of
from mirror.signatures.roots import TrustedRoots
from mirror.signatures.verify import SignatureCandidate, check_all, may_be_signature, signature_tag

_MOST_CANDIDATES: Final = 100
"""Manifests that are read for one image."""


@dataclass(frozen=True, slots=True)
class SignatureRequirement:
    """The policies of the settings and of each job. Safe to share between threads."""

    policies: SignaturePolicies
    roots: TrustedRoots
    finder: ReferrerFinder
    resolver: Resolver
    source: Source

    def is_satisfied(self, spec: CopySpec, held: IndexedTag | None) -> bool:
        """Return whether the image that a tag shows was checked by the same policies, or none asks for that. No I/O."""
        policies = self.policies.of(spec.source, spec.options.signature)
        return not policies or bool(held and held.signature and held.signature.policy == key_of(policies))

    def verify(self, task: ClaimedCopy, subject: Digest, memory: ManifestMemory) -> SignatureVerdict | None:
        """Return whose signature of *subject* satisfies all policies. None if there is no policy.

        *subject* is the digest at the source. Raises SignatureRequired, TrustedRootUnavailable, and what the source
        raises.
        """
        policies = self.policies.of(task.spec.source, task.spec.options.signature)
        if not policies:
            return None
        candidates = list(self._candidates(task, subject, memory))
        return check_all(policies, subject, candidates, roots=self.roots, now=self.finder.now())

    def _candidates(self, task: ClaimedCopy, subject: Digest, memory: ManifestMemory) -> Iterator[SignatureCandidate]:
        """Yield what may be a signature of *subject*: first that of cosign's tag, then listed referrers."""
        repository = replace(task.spec.source, tag=None, digest=None)
        sighting = self.finder.look(task.spec.source, subject, task.claim.task.created_at)
        read = cache(partial(self._content, repository, memory))
        tag = signature_tag(subject)
        if tag in sighting.tags:
            tagged = replace(repository, tag=tag)
            manifest = cache(partial(self._manifest, tagged, sighting.tags[tag], task, memory))
            yield SignatureCandidate(tag, manifest, read, is_tagged=True)
        listed = [one for one in self.finder.entries(task.spec.source, sighting, memory) if may_be_signature(one)]
        for referrer in listed[:_MOST_CANDIDATES]:
            reference = replace(repository, digest=referrer.digest)
            manifest = cache(partial(self._manifest, reference, referrer.digest, task, memory))
            yield SignatureCandidate(str(referrer.digest), manifest, read)

    def _manifest(
        self, reference: Reference, hint: Digest, task: ClaimedCopy, memory: ManifestMemory
    ) -> ManifestContent:
        task.cancellation.check()
        with self.resolver.resolving(reference, hint, task.cancellation, memory) as resolution:
            return resolution.root

    def _content(self, repository: Reference, memory: ManifestMemory, layer: Descriptor) -> bytes:
        """Read a payload or a bundle. The check has bounded its size, and compares size and digest."""
        memory.hold(layer.size)
        body = bytearray(layer.size)
        done = 0
        with self.source.open_blob(repository, layer) as stream:
            while done < layer.size and (count := stream.readinto(memoryview(body)[done:])):
                done += count
        return bytes(body[:done])
