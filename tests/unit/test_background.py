"""Background threads go on after any exception, and log it without secrets."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from mirror.background import BackgroundLoop, fault_counts, record_fault, suppress_faults
from mirror.errors import InternalError
from tests.e2e.processes import eventually

SECRET = "https://bucket/key?X-Amz-Signature=secret"


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError("x"), ResponseError("WRONGTYPE"), InternalError()])
def test_a_loop_goes_on_after_a_step_raises_and_counts_the_error(error: Exception) -> None:
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
    assert fault_counts()[name] == 1


def test_ending_a_loop_waits_for_its_current_step() -> None:
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


def test_an_exception_is_logged_with_its_place_and_without_its_message() -> None:
    def fail() -> None:
        raise ValueError(SECRET)

    with capture_logs() as logged, suppress_faults("some work", task_id="task_1"):
        fail()
    [line] = logged
    assert (line["work"], line["fault"], line["task_id"]) == ("some work", "ValueError", "task_1")
    assert line["at"].startswith("test_background.py:")
    assert "secret" not in str(line)


def test_the_message_of_redis_is_logged() -> None:
    with capture_logs() as logged:
        record_fault("some work", ResponseError("WRONGTYPE Operation against a key\n" + "x" * 1000))
    assert "WRONGTYPE" in logged[0]["fault"]
    assert len(logged[0]["fault"]) < 300
