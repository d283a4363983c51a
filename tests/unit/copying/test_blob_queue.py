from __future__ import annotations

import threading

import pytest

from mirror.copying import blob_queue
from mirror.copying.blob_queue import BlobQueue
from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.errors import BlobBusy
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest


def described(name: str) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(name.encode()), len(name))


A, B = described("a"), described("b")


def test_blobs_come_in_their_order_and_end() -> None:
    queue = BlobQueue([A, B], Cancellation())
    assert [queue.next(), queue.next()] == [A, B]
    queue.done()
    queue.done()
    assert queue.next() is None


def test_what_another_worker_copies_comes_again_behind_the_rest() -> None:
    queue = BlobQueue([A, B], Cancellation())
    assert queue.next() == A
    queue.put_back(A)
    assert [queue.next(), queue.next()] == [B, A]


def test_a_thread_with_nothing_to_do_waits_for_what_others_have_in_hand() -> None:
    queue = BlobQueue([A], Cancellation())
    assert queue.next() == A
    found: list[Descriptor | None] = []
    thread = threading.Thread(target=lambda: found.append(queue.next()))
    thread.start()
    queue.put_back(A)
    thread.join(10)
    assert found == [A]


def test_when_others_have_all_that_is_left_the_task_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_queue, "LONGEST_WAIT", 0.3)
    queue = BlobQueue([A], Cancellation())

    def try_again_and_again() -> None:
        while blob := queue.next():
            queue.put_back(blob)

    with pytest.raises(BlobBusy) as caught:
        try_again_and_again()
    assert caught.value.waits_for == "blob_in_transfer"


def test_who_waits_is_woken_by_the_cancellation() -> None:
    cancellation = Cancellation()
    queue = BlobQueue([A], cancellation)
    queue.next()
    raised = threading.Event()

    def ask() -> None:
        with pytest.raises(OperationCanceled):
            queue.next()
        raised.set()

    thread = threading.Thread(target=ask)
    thread.start()
    cancellation.cancel("over")
    assert raised.wait(10)
    thread.join()
