"""The thread that renews every claim of a process."""

from __future__ import annotations

import threading

import pytest

from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.errors import RedisUnavailable
from mirror.jobs.heartbeat import LOST, Heartbeat, Heartbeats
from mirror.oci.digest import Digest
from mirror.queue import NORMAL
from mirror.records.claims import Claim
from mirror.redis import keys
from tests.e2e.processes import eventually
from tests.support.harness import Harness
from tests.support.servers import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about records in Redis. Any S3 server will do."""
    return rclone_s3


@pytest.fixture
def heartbeats(harness: Harness) -> Heartbeats:
    return harness.core.heartbeats


def claims(harness: Harness, count: int) -> list[Claim]:
    job = harness.submit_all(*((f"team/app:{number}", None) for number in range(count)))
    found = harness.core.claims.claim([(task.id, task.fence, NORMAL) for task in harness.jobs.tasks(job.id, count)])
    return [claim for claim in found if claim]


def threads() -> int:
    return sum(thread.name == "heartbeats" for thread in threading.enumerate())


def lease_ends(harness: Harness, claim: Claim) -> float:
    return float(harness.redis.call("ZSCORE", keys.TASKS_RUNNING, claim.task.id))


def end_all(started: list[Heartbeat]) -> None:
    for heartbeat in started:
        heartbeat.end(failed=False)


def test_many_claims_are_renewed_by_one_thread_that_ends_with_the_last(
    harness: Harness, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.jobs.heartbeat.LEASE_SECONDS", 0.0)
    eventually(lambda: threads() == 0, what="the threads of other tests have ended")
    held = claims(harness, 20)
    before = [lease_ends(harness, claim) for claim in held]
    started = [heartbeats.start(claim, Cancellation()) for claim in held]
    assert threads() == 1
    eventually(
        lambda: all(lease_ends(harness, c) > b for c, b in zip(held, before, strict=True)), what="all were renewed"
    )
    end_all(started)
    eventually(lambda: threads() == 0, what="the thread has ended")
    [again] = claims(harness, 1)
    heartbeat = heartbeats.start(again, Cancellation())
    assert threads() == 1
    end_all([heartbeat])


def test_a_claim_that_was_taken_away_stops_its_own_work_alone(harness: Harness, heartbeats: Heartbeats) -> None:
    mine, lost = claims(harness, 2)
    going_on, stopped = Cancellation(), Cancellation()
    started = [heartbeats.start(mine, going_on), heartbeats.start(lost, stopped)]
    harness.redis.call("HSET", keys.task(lost.task.id), "holder", "somebody else")
    eventually(stopped.is_set, what="the work is stopped")
    with pytest.raises(OperationCanceled, match=LOST):
        stopped.check()
    assert not going_on.is_set()
    end_all(started)


def test_a_redis_that_is_silent_for_a_moment_loses_no_claim(
    harness: Harness, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.jobs.heartbeat.LEASE_SECONDS", 0.0)
    [claim] = claims(harness, 1)
    before, renew = lease_ends(harness, claim), harness.core.claims.renew
    silent = iter([True, True])

    def renewed(claim: Claim) -> object:
        if next(silent, False):
            raise RedisUnavailable
        return renew(claim)

    monkeypatch.setattr(harness.core.claims, "renew", renewed)
    cancellation = Cancellation()
    heartbeat = heartbeats.start(claim, cancellation)
    eventually(lambda: lease_ends(harness, claim) > before, what="it was renewed in spite of that")
    assert not cancellation.is_set()
    end_all([heartbeat])


def test_nothing_is_written_after_the_end_of_a_heartbeat(
    harness: Harness, heartbeats: Heartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim] = claims(harness, 1)
    heartbeat = heartbeats.start(claim, Cancellation())
    heartbeat.progress.resolved(Digest.of(b"an image"))
    writing, written = threading.Event(), threading.Event()
    flush = heartbeat.progress.flush

    def held_up() -> object:
        writing.set()
        assert written.wait(30)
        return flush()

    monkeypatch.setattr(heartbeat.progress, "flush", held_up)
    assert writing.wait(30)
    ending = threading.Thread(target=end_all, args=([heartbeat],))
    ending.start()
    ending.join(0.2)
    assert ending.is_alive(), "it waits for what is being written"
    written.set()
    ending.join(30)
    assert not ending.is_alive()
    assert not heartbeat.beat()
