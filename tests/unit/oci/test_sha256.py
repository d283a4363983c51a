"""A SHA-256 that is saved between two blocks and resumed in another object."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestMismatch
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.sha256 import BLOCK, Sha256, is_available, is_faster_by_copying, warm_up
from mirror.oci.verification import Hasher

CONTENT = random.Random("content").randbytes(5 * BLOCK + 7)


def described(content: bytes, algorithm: str = "sha256") -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content, algorithm), len(content))


def test_the_libcrypto_of_this_python_is_found() -> None:
    assert is_available()


@given(st.lists(st.binary(max_size=300)))
def test_any_split_of_the_bytes_gives_the_digest_of_hashlib(pieces: list[bytes]) -> None:
    ours = Sha256()
    for piece in pieces:
        ours.update(memoryview(bytearray(piece)))
    assert ours.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize("way", [Sha256.update_in_place, Sha256.update_by_copying])
@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 3 * 2**18 + BLOCK])
def test_hashing_in_place_and_by_copying_give_the_same_digest(
    way: Callable[[Sha256, memoryview], None], size: int
) -> None:
    content = random.Random(size).randbytes(size)
    ours = Sha256()
    way(ours, memoryview(bytearray(content)))
    way(ours, memoryview(content))
    assert ours.hexdigest() == hashlib.sha256(2 * content).hexdigest()


def test_the_faster_way_is_measured_once() -> None:
    warm_up()
    before = is_faster_by_copying.cache_info()
    is_faster_by_copying()
    assert is_faster_by_copying.cache_info()[:2] == (before.hits + 1, before.misses)
    assert before.currsize == 1


def test_a_read_only_buffer_is_hashed_too() -> None:
    ours = Sha256()
    ours.update(memoryview(CONTENT))
    assert ours.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


def test_reading_the_digest_does_not_end_the_hash() -> None:
    ours = Sha256()
    ours.update(memoryview(CONTENT[:3]))
    ours.hexdigest()
    ours.update(memoryview(CONTENT[3:]))
    assert ours.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("blocks", range(6))
def test_a_hasher_resumes_from_a_midstate(blocks: int) -> None:
    blob, reached = described(CONTENT), blocks * BLOCK
    first = Hasher(blob)
    first.update(CONTENT[:reached])
    midstate = first.midstate()
    assert midstate is not None
    second = Hasher.resumed(blob, reached, midstate)
    second.update(CONTENT[reached:])
    assert second.finish().descriptor == blob


def test_a_count_of_more_than_32_bits_is_resumed() -> None:
    """The length in bits of a blob of more than 512 MiB needs two words."""
    zeros = bytearray(2**20)
    whole, left = hashlib.sha256(), Sha256()
    for _ in range(513):
        whole.update(zeros)
        left.update(memoryview(zeros))
    resumed = Sha256.resumed(left.midstate(), 513 * 2**20)
    resumed.update(memoryview(CONTENT))
    whole.update(CONTENT)
    assert resumed.hexdigest() == whole.hexdigest()


def test_a_wrong_midstate_makes_no_proof() -> None:
    blob = described(CONTENT)
    first = Hasher(blob)
    first.update(bytes(BLOCK))
    midstate = first.midstate()
    assert midstate is not None
    second = Hasher.resumed(blob, BLOCK, midstate)
    second.update(CONTENT[BLOCK:])
    with pytest.raises(DigestMismatch):
        second.finish()


def test_inside_a_block_there_is_no_midstate() -> None:
    hasher = Hasher(described(CONTENT))
    hasher.update(b"x")
    assert hasher.midstate() is None
    inside = Sha256()
    inside.update(memoryview(b"x"))
    with pytest.raises(ValueError, match="only between two blocks"):
        inside.midstate()


@pytest.mark.parametrize(("seen", "midstate"), [(1, bytes(32)), (BLOCK, bytes(31)), (len(CONTENT) + BLOCK, bytes(32))])
def test_an_invalid_midstate_is_refused(seen: int, midstate: bytes) -> None:
    with pytest.raises(ValueError, match=r"midstate|cannot be resumed"):
        Hasher.resumed(described(CONTENT), seen, midstate)


def test_the_hash_of_a_sha512_blob_cannot_be_resumed() -> None:
    blob = described(CONTENT, "sha512")
    assert Hasher(blob).midstate() is None
    with pytest.raises(ValueError, match="cannot be resumed"):
        Hasher.resumed(blob, 0, bytes(32))
