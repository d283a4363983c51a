from __future__ import annotations

import threading

from mirror.copying.stalls import StallWatch


class Stream:
    def __init__(self) -> None:
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()


def test_a_read_that_lasts_too_long_is_interrupted() -> None:
    stream = Stream()
    with StallWatch(0.05) as watch, watch.watching(stream):
        assert stream.interrupted.wait(10)


def test_a_read_that_has_ended_is_not() -> None:
    ended, stalled = Stream(), Stream()
    with StallWatch(0.05) as watch:
        with watch.watching(ended):
            pass
        with watch.watching(stalled):
            assert stalled.interrupted.wait(10)
    assert not ended.interrupted.is_set()
