"""No change of a signed document is ever accepted. Every change has a reason, and none ends in another error."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.signatures.policy import SignaturePolicy
from tests.support.sigstore import IDENTITY, ISSUER, Sigstore, b64, statement
from tests.unit.signatures.made import SUBJECT, bundled, candidate, key_bundle, payload, refusal, signed, simple

PAYLOAD = payload()
SIGNATURE = signed(PAYLOAD)
INSTANCE = Sigstore()
KEYLESS = INSTANCE.sign(statement(SUBJECT))
KEYED = key_bundle(statement(SUBJECT))
POLICY = SignaturePolicy.parse(identity=IDENTITY, issuer=ISSUER, trusted_root="acme")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roots")
    (folder / "acme.json").write_bytes(INSTANCE.trusted_root())
    return folder


def flipped(content: bytes, at: int, mask: int) -> bytes:
    changed = bytearray(content)
    changed[at % len(content)] ^= mask
    return bytes(changed)


@given(at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_no_byte_of_a_payload_can_be_changed(at: int, mask: int) -> None:
    changed = flipped(PAYLOAD, at, mask)
    refusal(candidate(simple(changed, SIGNATURE), changed))


@given(at=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_no_byte_of_a_signature_can_be_changed(at: int, mask: int) -> None:
    refusal(candidate(simple(PAYLOAD, flipped(SIGNATURE, at, mask)), PAYLOAD))


@given(end=st.integers(0, 10_000))
def test_no_payload_and_no_bundle_can_be_cut(end: int) -> None:
    cut = PAYLOAD[: end % len(PAYLOAD)]
    refusal(candidate(simple(cut, SIGNATURE), cut))
    raw = json.dumps(KEYED).encode()
    refusal(bundled(raw[: end % len(raw)]))


@given(at=st.integers(0, 10_000), mask=st.integers(1, 255), part=st.sampled_from(["payload", "sig"]))
def test_no_byte_of_an_envelope_can_be_changed(at: int, mask: int, part: str) -> None:
    changed = json.loads(json.dumps(KEYED))
    place = changed["dsseEnvelope"] if part == "payload" else changed["dsseEnvelope"]["signatures"][0]
    place[part] = b64(flipped(base64.b64decode(place[part]), at, mask))
    refusal(bundled(changed))


def signed_parts() -> Iterator[tuple[str | int, ...]]:
    """Yield where a bundle without a key has bytes that something signs."""
    entry = ("verificationMaterial", "tlogEntries", 0)
    yield ("verificationMaterial", "certificate", "rawBytes")
    yield (*entry, "inclusionPromise", "signedEntryTimestamp")
    yield (*entry, "inclusionProof", "rootHash")
    yield (*entry, "canonicalizedBody")
    yield ("dsseEnvelope", "payload")
    yield ("dsseEnvelope", "signatures", 0, "sig")


@settings(max_examples=50)
@given(at=st.integers(0, 10_000), mask=st.integers(1, 255), path=st.sampled_from(list(signed_parts())))
def test_no_byte_of_a_bundle_without_a_key_can_be_changed(
    at: int, mask: int, path: tuple[str | int, ...], roots: Path
) -> None:
    changed, place = replaced(KEYLESS, path)
    place[path[-1]] = b64(flipped(base64.b64decode(place[path[-1]]), at, mask))
    refusal(bundled(changed), policy=POLICY, roots=roots)


def replaced(bundle: dict[str, Any], path: tuple[str | int, ...]) -> tuple[dict[str, Any], Any]:
    """Return a copy of *bundle*, and the part of it that has the end of *path*."""
    copied = json.loads(json.dumps(bundle))
    place = copied
    for step in path[:-1]:
        place = place[step]
    return copied, place


def paths(document: Any, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    found = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in found:
        yield (*prefix, name)
        if isinstance(value, dict | list):
            yield from paths(value, (*prefix, name))


EASY = ("hashes", "logIndex", "treeSize")
"""Fields whose value is so short that it is found by chance, or that may be left out."""
NEEDED = [path for path in paths(KEYLESS) if path[-1] not in EASY]


@settings(max_examples=50)
@given(path=st.sampled_from(NEEDED), value=JSON)
def test_any_other_json_in_a_bundle_without_a_key_is_refused(
    path: tuple[str | int, ...], value: Any, roots: Path
) -> None:
    changed, place = replaced(KEYLESS, path)
    place[path[-1]] = value
    refusal(bundled(changed), policy=POLICY, roots=roots)


@given(path=st.sampled_from(list(paths({"dsseEnvelope": KEYED["dsseEnvelope"]}))), value=JSON)
def test_any_other_json_in_an_envelope_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    changed, place = replaced(KEYED, path)
    place[path[-1]] = value
    refusal(bundled(changed))


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(content: bytes) -> None:
    refusal(bundled(content))
    refusal(candidate(simple(content, SIGNATURE), content))
