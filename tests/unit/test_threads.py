"""Threads that others depend on go on, whatever one piece of their work raises."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from mirror.errors import InternalError
from mirror.threads import BackgroundLoop, faults, note_fault, surviving
from tests.e2e.processes import eventually

SECRET = "https://bucket/key?X-Amz-Signature=secret"


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError("x"), ResponseError("WRONGTYPE"), InternalError()])
def test_a_loop_survives_what_its_steps_raise_and_counts_it(error: Exception) -> None:
    steps = deque([True, True, False])
    name = f"loop-{type(error).__name__}"

    def step() -> bool:
        if len(steps) == 2:
            steps.popleft()
            raise error
        return steps.popleft()

    loop = BackgroundLoop(name, 0.001, step).start()
    eventually(lambda: not loop.is_alive(), what="its last step has ended it")
    assert not steps
    assert faults()[name] == 1


def test_a_loop_ends_when_it_is_told_and_its_last_step_with_it() -> None:
    began, go_on = threading.Event(), threading.Event()

    def step() -> bool:
        began.set()
        assert go_on.wait(30)
        return True

    loop = BackgroundLoop("ended", 0.001, step).start()
    assert began.wait(30)
    ending = threading.Thread(target=loop.end)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive(), "it waits for the step"
    go_on.set()
    ending.join(30)
    assert not loop.is_alive()


def test_what_was_survived_is_logged_with_its_place_and_without_its_text() -> None:
    def fail() -> None:
        raise ValueError(SECRET)

    with capture_logs() as logged, surviving("some work", task_id="task_1"):
        fail()
    [line] = logged
    assert (line["work"], line["fault"], line["task_id"]) == ("some work", "ValueError", "task_1")
    assert line["at"].startswith("test_threads.py:")
    assert "secret" not in str(line)


def test_what_redis_says_is_logged_since_it_names_what_is_wrong() -> None:
    with capture_logs() as logged:
        note_fault("some work", ResponseError("WRONGTYPE Operation against a key\n" + "x" * 1000))
    assert "WRONGTYPE" in logged[0]["fault"]
    assert len(logged[0]["fault"]) < 300
