"""Signatures with an identity, checked against a private instance of Sigstore, without any connection."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import TrustedRootUnavailable
from mirror.oci.digest import Digest
from mirror.signatures.policy import SignaturePolicy
from mirror.signatures.roots import TrustedRoots
from tests.support.sigstore import IDENTITY, ISSUER, SIGNED_AT, Sigstore, b64, statement
from tests.unit.signatures.made import OTHER, SUBJECT, bundled, checked, cosign_2, cosign_3, refusal

INSTANCE = Sigstore()
POLICY = SignaturePolicy.parse(identity=IDENTITY, issuer=ISSUER, trusted_root="acme")
SIGNER = f"{IDENTITY} ({ISSUER})"
TIMESTAMPED = Path(__file__).parents[2] / "support" / "fixtures" / "signatures" / "keyless" / "timestamped.json"
NOT_VALID = "its signature, its log entry or its timestamp is not valid"
DAMAGED = "its bundle is damaged, or it lacks its certificate, its log entry, or the proof that the log has it"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt to make a socket or to resolve a name fails the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a signature was checked with a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    (tmp_path / "acme.json").write_bytes(INSTANCE.trusted_root())
    return tmp_path


def test_an_image_that_the_identity_has_signed_is_accepted(roots: Path) -> None:
    for made in (INSTANCE.sign(statement(SUBJECT)), INSTANCE.sign_content(b"an image")):
        verdict = checked(bundled(made), policy=POLICY, roots=roots)
        assert (verdict.signer, verdict.form, verdict.policy) == (SIGNER, "bundle", POLICY.key)


def test_an_identity_may_be_a_regular_expression_for_all_of_it(roots: Path) -> None:
    def policy(regex: str) -> SignaturePolicy:
        return SignaturePolicy.parse(identity_regex=regex, issuer=ISSUER, trusted_root="acme")

    found = bundled(INSTANCE.sign(statement(SUBJECT)))
    start = re.escape("https://github.com/acme/app/.github/workflows/release.yml@refs/tags/")
    assert checked(found, policy=policy(start + "v[0-9]+"), roots=roots).signer == SIGNER
    assert "another identity" in refusal(found, policy=policy("https://github[.]com/acme/"), roots=roots)


def test_an_identity_may_be_an_e_mail_address(roots: Path) -> None:
    policy = SignaturePolicy.parse(identity="release@acme.test", issuer=ISSUER, trusted_root="acme")
    found = bundled(INSTANCE.sign(statement(SUBJECT), identity="release@acme.test"))
    assert checked(found, policy=policy, roots=roots).signer == f"release@acme.test ({ISSUER})"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (
            INSTANCE.sign(statement(SUBJECT), identity="https://github.com/evil"),
            f"another identity has signed it: 'https://github.com/evil', confirmed by '{ISSUER}'",
        ),
        (
            INSTANCE.sign(statement(SUBJECT), issuer="https://evil.test"),
            f"another identity has signed it: '{IDENTITY}', confirmed by 'https://evil.test'",
        ),
        (INSTANCE.sign(statement(OTHER)), f"it is a good signature of {SIGNER}, but of another digest, {OTHER}"),
        (INSTANCE.sign_content(b"another image"), f"but of another digest, {OTHER}"),
        (Sigstore().sign(statement(SUBJECT)), "its certificate does not lead to the trusted root"),
        (INSTANCE.sign(statement(SUBJECT), at=datetime(2036, 1, 1, tzinfo=UTC)), "the trusted root had expired"),
    ],
)
def test_each_refusal_has_its_own_reason(made: dict[str, Any], reason: str, roots: Path) -> None:
    assert reason in refusal(bundled(made), policy=POLICY, roots=roots)


def test_an_authority_that_was_trusted_until_earlier_is_refused(tmp_path: Path) -> None:
    """Its certificate is still valid. Only the trusted root says that it is no longer trusted, such as after a leak."""
    found = bundled(INSTANCE.sign(statement(SUBJECT)))
    (tmp_path / "acme.json").write_bytes(INSTANCE.trusted_root(end=SIGNED_AT + timedelta(minutes=10)))
    assert checked(found, policy=POLICY, roots=tmp_path).signer == SIGNER
    (tmp_path / "acme.json").write_bytes(INSTANCE.trusted_root(end=SIGNED_AT + timedelta(minutes=9)))
    assert "the trusted root had expired when it signed" in refusal(found, policy=POLICY, roots=tmp_path)


def changed(made: dict[str, Any], *path: str | int, to: object) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(made))
    place: Any = copied
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return copied


ENTRY = ("verificationMaterial", "tlogEntries", 0)


@pytest.mark.parametrize(
    ("path", "to", "reason"),
    [
        (("verificationMaterial", "tlogEntries"), [], DAMAGED),
        (("verificationMaterial", "certificate"), None, DAMAGED),
        (("verificationMaterial", "certificate"), {"rawBytes": b64(b"none")}, DAMAGED),
        ((*ENTRY, "inclusionProof"), None, DAMAGED),
        ((*ENTRY, "inclusionPromise"), None, DAMAGED),
        ((*ENTRY, "integratedTime"), str(int(SIGNED_AT.timestamp()) + 601), "was not valid when it signed"),
        ((*ENTRY, "integratedTime"), str(int(SIGNED_AT.timestamp()) + 1), NOT_VALID),
        ((*ENTRY, "integratedTime"), "9" * 18, NOT_VALID),
        ((*ENTRY, "integratedTime"), "many", DAMAGED),
        ((*ENTRY, "logIndex"), "5", NOT_VALID),
        ((*ENTRY, "inclusionProof", "treeSize"), "2", NOT_VALID),
        ((*ENTRY, "inclusionProof", "rootHash"), b64(bytes(32)), NOT_VALID),
        ((*ENTRY, "inclusionProof", "checkpoint", "envelope"), "x", NOT_VALID),
        ((*ENTRY, "inclusionPromise", "signedEntryTimestamp"), b64(b"no"), NOT_VALID),
        ((*ENTRY, "kindVersion", "kind"), "intoto", NOT_VALID),
        (("dsseEnvelope", "signatures", 0, "sig"), b64(b"no"), NOT_VALID),
        (("dsseEnvelope", "payload"), b64(statement(SUBJECT) + b" "), NOT_VALID),
    ],
)
def test_a_bundle_that_was_changed_is_refused(
    path: tuple[str | int, ...], to: object, reason: str, roots: Path
) -> None:
    made = changed(INSTANCE.sign(statement(SUBJECT)), *path, to=to)
    assert reason in refusal(bundled(made), policy=POLICY, roots=roots)


def test_a_certificate_or_a_log_entry_of_another_signature_is_refused(roots: Path) -> None:
    made, other = INSTANCE.sign(statement(SUBJECT)), INSTANCE.sign(statement(SUBJECT))
    for path in (("verificationMaterial", "certificate"), ENTRY, ("dsseEnvelope",)):
        value: Any = other
        for step in path:
            value = value[step]
        mixed = changed(made, *path, to=value)
        assert NOT_VALID in refusal(bundled(mixed), policy=POLICY, roots=roots)


def timestamped(roots: Path) -> dict[str, Any]:
    """Return a bundle whose only time is a timestamp (RFC 3161), made by ``openssl ts``. Store its trusted root."""
    stored: dict[str, Any] = json.loads(TIMESTAMPED.read_text())
    (roots / "acme.json").write_text(json.dumps(stored["trusted_root"]))
    bundle: dict[str, Any] = stored["bundle"]
    return bundle


TIMESTAMP = ("verificationMaterial", "timestampVerificationData", "rfc3161Timestamps")


def test_the_time_of_a_signature_may_come_from_a_timestamp(tmp_path: Path) -> None:
    made = timestamped(tmp_path)
    assert checked(bundled(made), policy=POLICY, roots=tmp_path).signer == SIGNER
    [one] = made["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    token = bytearray(base64.b64decode(one["signedTimestamp"]))
    token[-5] ^= 1
    for changed_to, reason in [
        ([], DAMAGED),
        ([{"signedTimestamp": b64(bytes(token))}], NOT_VALID),
        ([{"signedTimestamp": b64(b"no")}], DAMAGED),
        ([one] * 33, NOT_VALID),
    ]:
        found = bundled(changed(made, *TIMESTAMP, to=changed_to))
        assert reason in refusal(found, policy=POLICY, roots=tmp_path)


def test_a_timestamp_of_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    made = timestamped(tmp_path)
    root = json.loads((tmp_path / "acme.json").read_text())
    (tmp_path / "acme.json").write_text(json.dumps(root | {"timestampAuthorities": []}))
    assert NOT_VALID in refusal(bundled(made), policy=POLICY, roots=tmp_path)


def test_a_signature_with_a_key_is_none_of_an_identity(roots: Path) -> None:
    assert "without a key" in refusal(cosign_2(), policy=POLICY, roots=roots)
    assert DAMAGED in refusal(cosign_3(), policy=POLICY, roots=roots)


def test_a_signature_of_an_identity_is_none_with_a_key() -> None:
    assert "none of the keys" in refusal(bundled(INSTANCE.sign(statement(SUBJECT))))


def test_a_sha512_is_not_supported_in_a_bundle_without_an_envelope(roots: Path) -> None:
    subject = Digest.of(b"an image", "sha512")
    made = INSTANCE.sign_content(b"an image")
    digest = {"algorithm": "SHA2_512", "digest": b64(bytes.fromhex(subject.hex))}
    made["messageSignature"]["messageDigest"] = digest
    assert "SHA-512" in refusal(bundled(made), policy=POLICY, roots=roots)


def test_sigstores_public_root_is_there_and_accepts_nobody_elses_signature() -> None:
    policy = SignaturePolicy.parse(identity=IDENTITY, issuer=ISSUER)
    found = bundled(INSTANCE.sign(statement(SUBJECT)))
    assert "its certificate does not lead to the trusted root" in refusal(found, policy=policy)
    root = json.loads(TrustedRoots(None).read(""))
    uris = {authority["uri"] for authority in root["certificateAuthorities"]}
    assert uris == {"https://fulcio.sigstore.dev"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("other", None, "its file cannot be read"),
        ("acme", b"", "its file is not a trusted root of Sigstore"),
        ("acme", b"{}", "its file is not a trusted root of Sigstore"),
        ("acme", b"[]", "its file is not a trusted root of Sigstore"),
        ("acme", b'{"mediaType": "text/plain", "tlogs": []}', "its file is not a trusted root of Sigstore"),
        ("acme", b" " * (4 * 1024 * 1024 + 1), "its file has more than 4194304 bytes"),
    ],
)
def test_a_trusted_root_that_cannot_be_used_is_an_error_of_its_own(
    name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "acme.json").write_bytes(content)
    policy = SignaturePolicy.parse(identity=IDENTITY, issuer=ISSUER, trusted_root=name)
    with pytest.raises(TrustedRootUnavailable, match=reason):
        checked(bundled(INSTANCE.sign(statement(SUBJECT))), policy=policy, roots=tmp_path)


@pytest.mark.parametrize("name", ["../acme", "a/b", "Acme", "", "x" * 101, "acme\n"])
def test_only_a_plain_name_is_looked_up(name: str, roots: Path) -> None:
    (roots.parent / "acme.json").write_bytes(b"{}")
    if not name:
        TrustedRoots(roots).require(name)
        return
    with pytest.raises(TrustedRootUnavailable, match="no name of a trusted root"):
        TrustedRoots(roots).require(name)


def test_a_missing_trusted_root_is_noticed_before_it_is_read(roots: Path) -> None:
    TrustedRoots(roots).require("acme")
    with pytest.raises(TrustedRootUnavailable, match="there is no such file"):
        TrustedRoots(roots).require("other")
    with pytest.raises(TrustedRootUnavailable, match="MIRROR_TRUSTED_ROOTS names no folder"):
        TrustedRoots(None).require("acme")


def test_a_worker_that_checks_no_identity_does_not_import_sigstore() -> None:
    """The package takes 55 MiB and a second."""
    script = (
        "import sys; import tests.unit.signatures.made as made; made.checked(made.cosign_2()); "
        "sys.exit('sigstore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
