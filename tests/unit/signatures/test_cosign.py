"""Signatures that cosign 2 and cosign 3 have made are accepted, each with its own key only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from mirror.errors import SignatureRequired
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import ManifestContent
from mirror.oci.manifest import parse_manifest
from mirror.oci.referrer import described
from mirror.signatures.keys import public_key
from mirror.signatures.policy import SignaturePolicy
from mirror.signatures.verify import SignatureCandidate, may_be_signature
from tests.unit.signatures.made import POLICY, SUBJECT, checked, of, refusal

FOLDER: Final = Path(__file__).parents[2] / "support" / "fixtures" / "signatures"
ED25519PH: Final = "cosign2-tag-ed25519"
FORMS: Final = {
    "cosign2-tag": "cosign-tag",
    "cosign2-tag-p384": "cosign-tag",
    "cosign2-tag-rsa": "cosign-tag",
    "cosign2-referrer": "cosign-referrer",
    "cosign2-bundle": "bundle",
    "cosign3-bundle": "bundle",
    "cosign3-bundle-p384": "bundle",
    "cosign3-bundle-rsa": "bundle",
    "cosign3-tag": "cosign-tag",
}


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def as_candidate(made: dict[str, Any]) -> SignatureCandidate:
    body = made["manifest"].encode()
    held = {Digest.of(content.encode()): content.encode() for content in made["layers"]}
    descriptor = Descriptor(media_types.OCI_MANIFEST, Digest.of(body), len(body))
    content = ManifestContent(descriptor, body, parse_manifest(body, None, what="a signature"))
    return of(content, lambda layer: held[layer.digest], is_tagged=made["is_tagged"])


@pytest.mark.parametrize("name", FORMS)
def test_a_signature_of_cosign_is_accepted_with_its_key(name: str) -> None:
    made = stored(name)
    policy = SignaturePolicy.parse(keys=[made["key"]])
    found = as_candidate(made)
    verdict = checked(found, policy=policy, subject=Digest.parse(made["subject"]))
    assert verdict.signer == f"key {public_key(made['key']).id}"
    assert verdict.form == FORMS[name]
    assert made["is_tagged"] or may_be_signature(described(found.manifest()))


@pytest.mark.parametrize("name", FORMS)
def test_a_signature_of_cosign_is_refused_with_another_key_or_for_another_image(name: str) -> None:
    made = stored(name)
    found = as_candidate(made)
    own = SignaturePolicy.parse(keys=[made["key"]])
    assert "it is a good signature of" in refusal(found, policy=own)
    assert f"its payload names another digest, {made['subject']}, and none of the keys" in refusal(found, policy=POLICY)
    assert str(SUBJECT) != made["subject"]


def test_cosigns_signature_with_an_ed25519_key_is_refused_with_a_reason_of_its_own() -> None:
    """cosign signs with Ed25519ph, which the library cannot check."""
    made = stored(ED25519PH)
    own = SignaturePolicy.parse(keys=[made["key"]])
    with pytest.raises(SignatureRequired, match="Ed25519ph, as cosign does, which is not supported"):
        checked(as_candidate(made), policy=own, subject=Digest.parse(made["subject"]))


def test_an_attestation_of_cosign_is_no_signature() -> None:
    made = stored("cosign3-attestation")
    found = as_candidate(made)
    own = SignaturePolicy.parse(keys=[made["key"]])
    assert refusal(found, policy=own) == "it has no signature, only attestations"
    assert not may_be_signature(described(found.manifest()))


def test_every_stored_signature_is_checked() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {*FORMS, ED25519PH, "cosign3-attestation"}
