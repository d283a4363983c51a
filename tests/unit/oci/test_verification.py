"""A proof needs all bytes, in order, with the digest of the descriptor."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestMismatch, SizeInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Hasher, Verified, verify


def described(content: bytes, algorithm: str = "sha256") -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content, algorithm), len(content))


HELLO = described(b"hello")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"hello", bytes(100_000)])
def test_the_described_bytes_make_a_proof_of_their_descriptor(content: bytes, algorithm: str) -> None:
    descriptor = described(content, algorithm)
    assert verify(content, descriptor).descriptor == descriptor


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_any_split_of_the_bytes_makes_a_proof(chunks: list[bytes]) -> None:
    hasher = Hasher(described(b"".join(chunks)))
    for chunk in chunks:
        hasher.update(chunk)
    assert hasher.finish().descriptor == hasher.descriptor


@pytest.mark.parametrize("chunk", [b"hello", bytearray(b"hello"), memoryview(b"hello"), memoryview(b"-hello-")[1:6]])
def test_every_kind_of_buffer_is_hashed(chunk: bytes | bytearray | memoryview) -> None:
    hasher = Hasher(HELLO)
    hasher.update(chunk)
    assert hasher.finish().descriptor == HELLO


def test_bytes_in_another_order_make_no_proof() -> None:
    hasher = Hasher(HELLO)
    hasher.update(b"lo")
    hasher.update(b"hel")
    with pytest.raises(DigestMismatch, match=f"{HELLO.digest} have the digest {Digest.of(b'lohel')}"):
        hasher.finish()


def test_one_changed_byte_makes_no_proof() -> None:
    with pytest.raises(DigestMismatch):
        verify(b"hellO", HELLO)


@pytest.mark.parametrize("content", [b"", b"hell"])
def test_missing_bytes_make_no_proof(content: bytes) -> None:
    with pytest.raises(SizeInvalid, match=f"should have 5 bytes and has {len(content)}"):
        verify(content, HELLO)


def test_one_byte_too_many_is_refused_before_it_is_hashed() -> None:
    hasher = Hasher(HELLO)
    hasher.update(b"hello")
    with pytest.raises(SizeInvalid, match="should have 5 bytes and has at least 6"):
        hasher.update(b"!")
    with pytest.raises(SizeInvalid):
        hasher.finish()


def test_a_refused_chunk_does_not_change_the_hash() -> None:
    hasher = Hasher(HELLO)
    hasher.update(b"hello")
    with pytest.raises(SizeInvalid):
        hasher.update(bytes(1_000_000))
    hasher.seen = HELLO.size
    assert hasher.finish().descriptor == HELLO


def test_a_proof_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="only a Hasher"):
        Verified(HELLO, object())
    with pytest.raises(TypeError):
        cast("Any", Verified)(HELLO)


def test_a_proof_cannot_be_carried_over_to_another_descriptor() -> None:
    proof = verify(b"hello", HELLO)
    with pytest.raises((ValueError, TypeError)):
        cast("Any", dataclasses.replace)(proof, descriptor=described(b"evil"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        cast("Any", proof).descriptor = described(b"evil")
    assert [f.name for f in dataclasses.fields(proof)] == ["descriptor"]
