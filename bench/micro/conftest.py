from __future__ import annotations

import os

import pytest

MIB = 1024 * 1024
PIECE = MIB
"""Bytes of one read, as in the copy engine."""
PART = 16 * MIB


@pytest.fixture(scope="session")
def piece() -> bytearray:
    return bytearray(os.urandom(PIECE))


@pytest.fixture(scope="session")
def part() -> bytearray:
    return bytearray(os.urandom(PART))
