"""Attach the mirror's own signed statement to an image, as a referrer, before the image's tag moves.

So a tag never shows an image without its statement, and a failure fails the task as any other failure of S3. A worker
that dies in between leaves a statement that is true, and the next attempt finds it.

An image that is published again gets no second statement, unless the new one says something else, such as another
source. Two jobs that publish it at the same time may both write one.

The statement must hide nothing. As soon as an image has one Sigstore bundle, cosign 2.6 and 3 read bundles only, and no
longer the tags of cosign 2 (sigstore/cosign, cmd/cosign/cli/verify: "GetBundles"). So an image whose signatures or
attestations are such tags alone gets no statement. If such a tag arrives later, the statement is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import structlog

from mirror.catalog.referrers import ReferrerLists
from mirror.errors import ContentError, StorageDamaged
from mirror.locks.pins import Pins
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, ManifestContent
from mirror.oci.local_image import LocalImage
from mirror.oci.manifest import MAX_MANIFEST_SIZE, Manifest, parse_manifest
from mirror.oci.referrer import EMPTY_TYPE, REFERRER_TAG, Referrer, cosign_tags, described
from mirror.oci.verification import verify
from mirror.signatures.attestation import (
    BUNDLE_TYPE,
    EMPTY_CONFIG,
    Mirroring,
    Signer,
    bundle_manifest,
    is_bundle,
    may_be_summary,
    says_the_same,
)
from mirror.storage.blobs import BlobStore
from mirror.storage.links import LinkStore
from mirror.storage.provenance import ImageProvenance

_MOST_READ: Final = 20
"""Statements of a list that are read, from its end. Others may have signed them all."""
_LARGEST_BUNDLE: Final = 2**20
_LOG = structlog.get_logger(__name__)


class Attester:
    """Attaches statements to images. Safe to share between threads. *public_host* is the mirror's own host name."""

    def __init__(
        self,
        signer: Signer,
        public_host: str,
        lists: ReferrerLists,
        *,
        pins: Pins,
        blobs: BlobStore,
        links: LinkStore,
    ) -> None:
        self._signer = signer
        self._public_host = public_host
        self._lists = lists
        self._pins = pins
        self._blobs = blobs
        self._links = links

    def attest(self, target: LocalImage, image: Image, origin: ImageProvenance, *, holder: str) -> None:
        """Make sure that *image* has its statement, once all of its bytes were verified.

        What is written is pinned for *holder*. Raises StorageUnavailable, StorageRefused, BlobBeingDeleted, or what
        `ReferrerLists` raises.
        """
        if target.tag and REFERRER_TAG.fullmatch(target.tag):  # it is a signature or a list itself
            return
        repository = target.repository
        own = self._kept_statements(repository, image.digest, origin.job)
        if own is None:
            _LOG.info("no statement, it would hide signatures", image=f"{repository}@{image.digest}")
            return
        name = f"{self._public_host}/{repository}"
        mirroring = Mirroring(name, image.digest, origin.source, origin.digest, origin.signature)
        wanted = self._signer.statement(mirroring, origin.mirrored_at)
        if not any(says_the_same(wanted, statement) for statement in own):
            self._attach(repository, image, self._signer.sign(wanted), origin, holder)
            _LOG.info("statement attached", image=f"{repository}@{image.digest}")

    def give_way(self, repository: str, subject: Digest, *, by: str) -> None:
        """Withdraw the statements about *subject* if they hide its signatures. *by* is recorded as the job."""
        self._kept_statements(repository, subject, by)

    def _kept_statements(self, repository: str, subject: Digest, by: str) -> list[dict[str, Any]] | None:
        """Return the statements of this mirror about *subject*. None if they would hide signatures.

        Those that are listed are withdrawn then.
        """
        listed = self._lists.listed(repository, subject)
        own = self._own_statements(listed)
        others = [referrer for referrer in listed if referrer.digest not in own]
        if not self._would_hide_tags(repository, subject, others):
            return list(own.values())
        if own:
            self._lists.withdraw(repository, subject, list(own), by=by)
            _LOG.info("statement withdrawn, it hid signatures", image=f"{repository}@{subject}")
        return None

    def _attach(self, repository: str, image: Image, bundle: bytes, origin: ImageProvenance, holder: str) -> None:
        """Write the bundle and its manifest, then their links, then the entry of the list."""
        root = image.root
        subject = Descriptor(root.parsed.media_type, image.digest, len(root.body))
        manifest = bundle_manifest(bundle, subject, origin.mirrored_at)
        config, layer = _descriptor(EMPTY_TYPE, EMPTY_CONFIG), _descriptor(BUNDLE_TYPE, bundle)
        written = _descriptor(media_types.OCI_MANIFEST, manifest)
        self._pins.pin(holder, [config.digest, layer.digest, written.digest])
        for descriptor, content in ((config, EMPTY_CONFIG), (layer, bundle), (written, manifest)):
            self._blobs.put(verify(content, descriptor), content)
        self._links.link_layer(repository, config.digest)
        self._links.link_layer(repository, layer.digest)
        self._links.link_revision(repository, written.digest)
        parsed = parse_manifest(manifest, None, what=str(written))
        entry = described(ManifestContent(written, manifest, parsed))
        self._lists.add(repository, image.digest, [entry], by=origin.job)

    def _would_hide_tags(self, repository: str, subject: Digest, others: Iterable[Referrer]) -> bool:
        """Return whether cosign would read signatures or attestations of *subject* from its tags, but for a bundle."""
        if any(is_bundle(referrer) for referrer in others):
            return False
        tags = [tag for tag in cosign_tags(subject) if not tag.endswith(".sbom")]
        return any(self._links.current(repository, tag) for tag in tags)

    def _own_statements(self, listed: Iterable[Referrer]) -> dict[Digest, dict[str, Any]]:
        """Return the statements of this mirror by the digests of their manifests, the latest first."""
        candidates = [referrer for referrer in reversed(list(listed)) if may_be_summary(referrer)]
        found = {referrer.digest: self._statement(referrer.digest) for referrer in candidates[:_MOST_READ]}
        return {digest: statement for digest, statement in found.items() if statement is not None}

    def _statement(self, digest: Digest) -> dict[str, Any] | None:
        """Return the statement below a manifest. None if another key signed it, or if it cannot be read."""
        try:
            body = self._blobs.read(digest, MAX_MANIFEST_SIZE)
            manifest = parse_manifest(body or b"", None, what=str(digest))
            if not isinstance(manifest, Manifest) or len(manifest.layers) != 1:
                return None
            bundle = self._blobs.read(manifest.layers[0].digest, _LARGEST_BUNDLE)
        except (ContentError, StorageDamaged):
            return None
        return self._signer.own_statement(bundle) if bundle else None


def _descriptor(media_type: str, content: bytes) -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))
