"""Which policies can be asked for, and the error of a wrong one."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from mirror.oci import tag_pattern
from mirror.records.rule_schemas import SignaturePolicySchema, dump_options, load_options
from mirror.signatures.keys import public_key
from mirror.signatures.policy import MOST_KEYS, InvalidPolicy, SignaturePolicy, SignatureVerdict
from tests.support.sigstore import IDENTITY, ISSUER, SIGNED_AT, Sigstore
from tests.unit.signatures.made import KEY, OTHER_KEY, pem

PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
CERTIFICATE = Sigstore().certificate(KEY.public_key(), IDENTITY, ISSUER, SIGNED_AT)


def spki(key: dsa.DSAPublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey | x25519.X25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PRIVATE, "It is a private key. Send the public key, and replace this one"),
        (
            KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode(),
            "It is a private key",
        ),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\neyJ9\n", "It is a private key"),
        (pem(KEY) + PRIVATE, "It is a private key"),
        (CERTIFICATE.public_bytes(Encoding.PEM).decode(), "It is a certificate"),
        (pem(KEY) + pem(OTHER_KEY), "It is not one public key in PEM"),
        ("", "It is not one public key in PEM"),
        ("sesame", "It is not one public key in PEM"),
        (pem(KEY).replace("PUBLIC KEY", "PUBLIC"), "It is not one public key in PEM"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "It is damaged, or of an unknown type"),
        (pem(KEY).replace("\nM", "\nN", 1), "It is damaged, or of an unknown type"),
        (spki(ec.generate_private_key(ec.SECP521R1()).public_key()), "Its type or its size is not supported"),
        (spki(ec.generate_private_key(ec.SECP256K1()).public_key()), "Its type or its size is not supported"),
        (
            spki(rsa.generate_private_key(65537, 1024).public_key()),  # noqa: S505 - it is refused
            "Its type or its size is not supported",
        ),
        (spki(x25519.X25519PrivateKey.generate().public_key()), "Its type or its size is not supported"),
    ],
)
def test_what_is_no_usable_key_is_refused_without_repeating_it(text: str, problem: str) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        SignaturePolicy.parse(keys=[pem(OTHER_KEY), text])
    assert refused.value.field == "keys"
    assert str(refused.value).startswith("Key 2 cannot be used. ")
    assert problem in str(refused.value)
    assert not any(line in str(refused.value) for line in text.splitlines() if len(line) > 30)


def _as_pem(der: bytes) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"


@given(st.text(max_size=300) | st.binary(max_size=300).map(_as_pem))
def test_no_text_is_a_key_by_chance(text: str) -> None:
    with pytest.raises(ValueError, match=r"^It is "):
        public_key(text)


@pytest.mark.parametrize(
    ("asked", "field", "problem"),
    [
        ({}, "keys", "Name 'keys'"),
        ({"keys": []}, "keys", "Name 'keys'"),
        ({"issuer": ISSUER}, "identity", "An issuer needs"),
        ({"identity": IDENTITY}, "issuer", "An identity needs its issuer"),
        ({"identity": IDENTITY, "identity_regex": ".*", "issuer": ISSUER}, "identity_regex", "Use either 'identity'"),
        ({"identity_regex": "(", "issuer": ISSUER}, "identity_regex", "missing )"),
        ({"identity_regex": "(?=x)", "issuer": ISSUER}, "identity_regex", "no lookaround"),
        ({"keys": [pem(KEY)], "identity": IDENTITY}, "identity", "Use either 'keys'"),
        ({"keys": [pem(KEY)], "issuer": ISSUER}, "issuer", "Use either 'keys'"),
        ({"keys": [pem(KEY)], "trusted_root": "acme"}, "trusted_root", "Use either 'keys'"),
        ({"identity": IDENTITY, "issuer": ISSUER, "trusted_root": "../x"}, "trusted_root", "It is a name"),
        ({"identity": IDENTITY, "issuer": ISSUER, "trusted_root": "a/b"}, "trusted_root", "It is a name"),
        ({"identity": "x" * 1001, "issuer": ISSUER}, "identity", "more than 1000 characters"),
        ({"identity": "x\n", "issuer": ISSUER}, "identity", "unprintable"),
        ({"keys": [pem(KEY)] * (MOST_KEYS + 1)}, "keys", "At most 10 keys"),
        ({"keys": ["x" * 10_001]}, "keys", "Key 1 has more than 10000 characters"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_at_its_field(
    asked: dict[str, str | list[str]], field: str, problem: str
) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        SignaturePolicy.parse(**asked)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert problem in str(refused.value)


def test_without_re2_an_expression_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tag_pattern.compile_regex.cache_clear()
    monkeypatch.setattr(tag_pattern, "re2", None)
    with pytest.raises(InvalidPolicy, match="install google-re2"):
        SignaturePolicy.parse(identity_regex="never-compiled-before", issuer=ISSUER)


def test_policies_that_ask_for_the_same_have_the_same_key() -> None:
    windows = pem(KEY).replace("\n", "\r\n")
    one = SignaturePolicy.parse(keys=[pem(KEY), pem(OTHER_KEY)])
    assert one.key == SignaturePolicy.parse(keys=[pem(OTHER_KEY), f"\n{windows}", pem(KEY)]).key
    assert SignaturePolicy.parse(keys=[windows]).keys == (pem(KEY),)


def test_policies_that_ask_for_something_else_have_another_key() -> None:
    policies = [
        SignaturePolicy.parse(keys=[pem(KEY)]),
        SignaturePolicy.parse(keys=[pem(OTHER_KEY)]),
        SignaturePolicy.parse(keys=[pem(KEY), pem(OTHER_KEY)]),
        SignaturePolicy.parse(identity="a", issuer="b"),
        SignaturePolicy.parse(identity="ab", issuer="b"),
        SignaturePolicy.parse(identity_regex="a", issuer="b"),
        SignaturePolicy.parse(identity="a", issuer="b", trusted_root="acme"),
    ]
    assert len({policy.key for policy in policies}) == len(policies)
    assert {len(policy.key) for policy in policies} == {32}


def test_the_key_of_a_policy_never_changes() -> None:
    """It is stored with each verdict. Another one would check every image again."""
    policy = SignaturePolicy.parse(identity="release@acme.example", issuer="https://accounts.example")
    assert policy.key == "c91242b8404ec7ae5b32552e44835d84"


@pytest.mark.parametrize(
    "asked",
    [
        {"keys": [pem(KEY)]},
        {"identity": IDENTITY, "issuer": ISSUER},
        {"identity_regex": ".*", "issuer": ISSUER, "trusted_root": "acme"},
    ],
)
def test_a_policy_is_answered_and_stored_as_it_was_asked_for(asked: dict[str, str | list[str]]) -> None:
    options = load_options({"signature": asked})
    dumped = dump_options(options)
    assert dumped["signature"] == asked
    assert load_options(dumped) == options


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"keys": [PRIVATE]}, "keys"),
        ({"keys": "text"}, "keys"),
        ({"keys": [pem(KEY)] * 11}, "keys"),
        ({}, "keys"),
        ({"identity": IDENTITY}, "issuer"),
        ({"key": pem(KEY)}, "key"),
        ({"identity": 5, "issuer": ISSUER}, "identity"),
    ],
)
def test_a_request_with_a_wrong_policy_names_the_field(asked: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SignaturePolicySchema().load(asked)
    assert isinstance(refused.value.messages, dict)
    assert list(refused.value.messages) == [field]
    assert "PRIVATE KEY-----" not in str(refused.value.messages)


def test_a_verdict_is_read_back_as_it_was_stored() -> None:
    verdict = SignatureVerdict("key sha256:1", "bundle", "sha256:2", "3", "2026-11-29T12:00:00+00:00")
    assert SignatureVerdict.from_fields(verdict.fields()) == verdict
    assert SignatureVerdict.from_fields(verdict.fields() | {"later": "field"}) == verdict
    others: list[object] = [None, [], {}, verdict.fields() | {"form": 1}]
    for broken in others:
        assert SignatureVerdict.from_fields(broken) is None
