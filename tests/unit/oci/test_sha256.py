"""SHA-256 that is left at a block's end and taken up again elsewhere."""

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
from mirror.oci.sha256 import BLOCK, Sha256, gains_by_copying, is_available, prepare
from mirror.oci.verification import Hasher

CONTENT = random.Random("content").randbytes(5 * BLOCK + 7)


def described(content: bytes, algorithm: str = "sha256") -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(content, algorithm), len(content))


def test_this_pythons_libcrypto_is_reached() -> None:
    assert is_available()


@given(st.lists(st.binary(max_size=300)))
def test_any_pieces_give_hashlibs_digest(pieces: list[bytes]) -> None:
    ours = Sha256()
    for piece in pieces:
        ours.update(memoryview(bytearray(piece)))
    assert ours.hexdigest() == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize("way", [Sha256.update_in_place, Sha256.update_by_copying])
@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 3 * 2**18 + BLOCK])
def test_in_place_or_by_copying_it_is_the_same_hash(way: Callable[[Sha256, memoryview], None], size: int) -> None:
    content = random.Random(size).randbytes(size)
    ours = Sha256()
    way(ours, memoryview(bytearray(content)))
    way(ours, memoryview(content))
    assert ours.hexdigest() == hashlib.sha256(2 * content).hexdigest()


def test_which_way_is_faster_is_tried_once() -> None:
    prepare()
    before = gains_by_copying.cache_info()
    gains_by_copying()
    assert gains_by_copying.cache_info()[:2] == (before.hits + 1, before.misses)
    assert before.currsize == 1


def test_bytes_that_cannot_be_written_to_are_hashed_too() -> None:
    ours = Sha256()
    ours.update(memoryview(CONTENT))
    assert ours.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


def test_asking_for_the_digest_does_not_end_the_hash() -> None:
    ours = Sha256()
    ours.update(memoryview(CONTENT[:3]))
    ours.hexdigest()
    ours.update(memoryview(CONTENT[3:]))
    assert ours.hexdigest() == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("blocks", range(6))
def test_a_hasher_goes_on_from_a_midstate(blocks: int) -> None:
    blob, reached = described(CONTENT), blocks * BLOCK
    first = Hasher(blob)
    first.update(CONTENT[:reached])
    midstate = first.midstate()
    assert midstate is not None
    second = Hasher.resumed(blob, reached, midstate)
    second.update(CONTENT[reached:])
    assert second.finish().descriptor == blob


def test_the_count_of_bits_beyond_32_bits_is_carried_over() -> None:
    """A blob of more than 512 MiB: its length in bits stands in two words."""
    zeros = bytearray(2**20)
    whole, left = hashlib.sha256(), Sha256()
    for _ in range(513):
        whole.update(zeros)
        left.update(memoryview(zeros))
    resumed = Sha256.resumed(left.midstate(), 513 * 2**20)
    resumed.update(memoryview(CONTENT))
    whole.update(CONTENT)
    assert resumed.hexdigest() == whole.hexdigest()


def test_another_midstate_proves_nothing() -> None:
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
    with pytest.raises(ValueError, match="between two blocks"):
        inside.midstate()


@pytest.mark.parametrize(("seen", "midstate"), [(1, bytes(32)), (BLOCK, bytes(31)), (len(CONTENT) + BLOCK, bytes(32))])
def test_what_is_no_midstate_is_refused(seen: int, midstate: bytes) -> None:
    with pytest.raises(ValueError, match=r"midstate|cannot be resumed"):
        Hasher.resumed(described(CONTENT), seen, midstate)


def test_a_sha512_blob_begins_again() -> None:
    blob = described(CONTENT, "sha512")
    assert Hasher(blob).midstate() is None
    with pytest.raises(ValueError, match="cannot be resumed"):
        Hasher.resumed(blob, 0, bytes(32))
