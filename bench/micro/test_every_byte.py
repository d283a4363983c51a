"""The CPU time of every byte: its hash, the checksum of its part, its buffer."""

from __future__ import annotations

import zlib

from isal import isal_zlib
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import PART, PIECE
from mirror.copying.cancellation import Cancellation
from mirror.copying.memory import MemoryBudget
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.verification import Hasher
from mirror.storage.multipart import content_md5


def test_hashing_a_blob(benchmark: BenchmarkFixture, part: bytearray) -> None:
    """Hash a blob in pieces of one read, up to the verified result."""
    blob = Descriptor("application/octet-stream", Digest.of(bytes(part)), len(part))
    view = memoryview(part)

    def proven() -> object:
        hasher = Hasher(blob)
        for start in range(0, len(part), PIECE):
            hasher.update(view[start : start + PIECE])
        return hasher.finish()

    assert benchmark(proven)


def test_the_crc_of_a_part(benchmark: BenchmarkFixture, part: bytearray) -> None:
    assert benchmark(isal_zlib.crc32, part) == zlib.crc32(part)


def test_the_md5_of_a_part(benchmark: BenchmarkFixture, part: bytearray) -> None:
    """Used only until S3 has shown that it checks the CRC."""
    assert benchmark(content_md5, part) == content_md5(part)


def test_a_buffer_from_the_budget_and_back(benchmark: BenchmarkFixture) -> None:
    budget, never = MemoryBudget(16 * PART), Cancellation()

    def taken() -> int:
        with budget.buffer(PART, never) as buffer:
            return len(buffer)

    assert benchmark(taken) == PART
