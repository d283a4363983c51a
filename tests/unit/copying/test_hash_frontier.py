"""Parts arrive and are stored in any order. The frontier passes them in the blob's order."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.copying.hash_frontier import HashFrontier
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Hasher
from mirror.storage.multipart import StoredPart

PART = 64
PARTS = 6
CONTENT = random.Random("frontier").randbytes(PART * PARTS)
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), len(CONTENT))


def part(number: int) -> memoryview:
    return memoryview(bytearray(CONTENT[(number - 1) * PART : number * PART]))


def receipt(number: int) -> StoredPart:
    return StoredPart(f"etag-{number}", f"crc-{number}")


@dataclass
class Watched:
    """A frontier, with what it saved and released."""

    hasher: Hasher = field(default_factory=lambda: Hasher(BLOB))
    first: int = 1
    saved: list[tuple[int, bytes | None, Mapping[int, StoredPart]]] = field(default_factory=list)
    released: list[memoryview] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frontier = HashFrontier(self.hasher, first=self.first, save=self._save, release=self.released.append)

    def _save(self, frontier: int, midstate: bytes | None, stored: Mapping[int, StoredPart]) -> None:
        self.saved.append((frontier, midstate, stored))


@given(st.permutations(range(1, PARTS + 1)), st.permutations(range(1, PARTS + 1)), st.randoms())
def test_whatever_the_order_the_blob_is_hashed_in_its_own(
    arriving: list[int], storing: list[int], chance: random.Random
) -> None:
    watched = Watched()
    steps = [("arrived", number) for number in arriving] + [("stored", number) for number in storing]
    chance.shuffle(steps)
    for step, number in steps:
        if step == "arrived":
            watched.frontier.arrived(number, part(number))
        else:
            watched.frontier.stored(number, receipt(number))
    assert watched.hasher.finish().descriptor == BLOB
    assert sorted(map(bytes, watched.released)) == sorted(bytes(part(number)) for number in range(1, PARTS + 1))
    passed = [number for _, _, stored in watched.saved for number in stored]
    assert passed == list(range(1, PARTS + 1))
    assert [frontier for frontier, _, _ in watched.saved] == [max(stored) for _, _, stored in watched.saved]


def test_a_part_that_is_only_hashed_or_only_stored_is_not_passed() -> None:
    watched = Watched()
    watched.frontier.arrived(1, part(1))
    watched.frontier.stored(2, receipt(2))
    assert (watched.saved, watched.released) == ([], [])
    watched.frontier.stored(1, receipt(1))
    assert [frontier for frontier, _, _ in watched.saved] == [1]
    watched.frontier.arrived(2, part(2))
    assert [frontier for frontier, _, _ in watched.saved] == [1, 2]


def test_every_saved_midstate_is_the_hash_at_the_frontier() -> None:
    watched = Watched()
    for number in range(1, PARTS + 1):
        watched.frontier.arrived(number, part(number))
        watched.frontier.stored(number, receipt(number))
    for frontier, midstate, _ in watched.saved:
        assert midstate is not None
        resumed = Hasher.resumed(BLOB, frontier * PART, midstate)
        resumed.update(CONTENT[frontier * PART :])
        assert resumed.finish().descriptor == BLOB


def test_a_frontier_begins_where_a_checkpoint_ended() -> None:
    first = Hasher(BLOB)
    first.update(CONTENT[: 2 * PART])
    midstate = first.midstate()
    assert midstate is not None
    watched = Watched(Hasher.resumed(BLOB, 2 * PART, midstate), first=3)
    for number in range(3, PARTS + 1):
        watched.frontier.stored(number, receipt(number))
        watched.frontier.arrived(number, part(number))
    assert watched.hasher.finish().descriptor == BLOB


def test_many_threads_lose_no_part() -> None:
    for seed in range(50):
        watched = Watched()
        numbers = list(range(1, PARTS + 1))
        random.Random(seed).shuffle(numbers)

        def bring(number: int, into: Watched = watched) -> None:
            into.frontier.arrived(number, part(number))

        def store(number: int, into: Watched = watched) -> None:
            into.frontier.stored(number, receipt(number))

        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(work, number) for number in numbers for work in (bring, store)]
        for future in done:
            future.result()
        assert watched.hasher.finish().descriptor == BLOB
        assert len(watched.released) == PARTS


def test_abandoned_parts_give_their_buffers_back_once() -> None:
    watched = Watched()
    watched.frontier.arrived(2, part(2))
    watched.frontier.arrived(1, part(1))
    watched.frontier.stored(1, receipt(1))
    watched.frontier.abandon()
    watched.frontier.abandon()
    assert list(map(bytes, watched.released)) == [bytes(part(1)), bytes(part(2))]


def test_a_checkpoint_that_cannot_be_written_frees_nothing() -> None:
    released: list[memoryview] = []

    def fail(*_: object) -> None:
        raise OSError

    frontier = HashFrontier(Hasher(BLOB), first=1, save=fail, release=released.append)
    frontier.arrived(1, part(1))
    with pytest.raises(OSError):  # noqa: PT011 - any error would do
        frontier.stored(1, receipt(1))
    assert released == []
    frontier.abandon()
    assert len(released) == 1
