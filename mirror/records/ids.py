"""Ids of records: a kind, ``_`` and a ULID.

They sort by the time at which they were made, and by their order within a process.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ulid import ULID, ULIDGenerator
from ulid import RandomnessSource as _Randomness

_BLOCK: Final = 2**20


def new_ulid(moment: int | datetime) -> ULID:
    """Return a new ULID of a time, or of milliseconds since the epoch.

    It stands for itself and the million ULIDs after it: the tasks of a job have ids that count on from one. The next
    ULID of the library itself, within the same millisecond, would be among them.
    """
    return _GENERATOR.generate(moment)


def ulid_of(record_id: str) -> ULID:
    """Return the ULID of an id such as ``job_01J…``. It has the time at which the id was made."""
    return ULID.from_str(record_id.partition("_")[2])


class _Blocks:
    """A policy of `ULIDGenerator`: the next ULID of a millisecond is the first one after a block."""

    def __init__(self) -> None:
        self._last = (-1, 0)

    def resolve_randomness(self, timestamp: int, randomness_source: _Randomness) -> bytes:
        """Return the 80 bits after the timestamp. The generator calls this under its lock."""
        last, value = self._last
        # The first bit of a new one is 0, so that no block ends beyond the 80 bits.
        value = value + _BLOCK if timestamp == last else int.from_bytes(randomness_source(timestamp)) >> 1
        self._last = timestamp, value
        return value.to_bytes(10)


_GENERATOR: Final = ULIDGenerator(policy=_Blocks())
