"""Output of several processes on one stdout."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from deploy.local.foreground import LineForwarder


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_lines_of_two_processes_are_not_mixed(pipe: tuple[int, int]) -> None:
    output = LineForwarder(pipe[1])
    output.take("a", b"one\ntw")
    output.take("b", b"eins\nzwei\ndr")
    output.take("a", b"o\n")
    output.take("b", b"ei\n")
    assert os.read(pipe[0], 1000) == b"one\neins\nzwei\ntwo\ndrei\n"


def test_a_last_line_without_end_is_written_when_its_process_ends(pipe: tuple[int, int]) -> None:
    output = LineForwarder(pipe[1])
    output.take("a", b"last words")
    output.end("a")
    output.end("a")
    assert os.read(pipe[0], 1000) == b"last words\n"


def test_without_a_reader_output_is_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = LineForwarder(writer)
    output.take("a", b"lost\n")
    output.take("a", b"lost too\n")
    os.close(writer)
