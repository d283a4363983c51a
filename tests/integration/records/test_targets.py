"""The targets that the tasks of one job claim: no two of them write one name."""

from __future__ import annotations

import pytest

from mirror.errors import TargetRepeated
from mirror.oci.reference import RepositoryPattern
from mirror.records.claims import Claim, ClaimState, Outcome
from mirror.records.spec import CopySpec, ExpandSpec, TaskSpec
from mirror.records.states import STEP
from mirror.records.targets import JobTargets
from mirror.redis import keys
from mirror.redis.client import Redis
from tests.integration.records.submitted import LOST, lose, read
from tests.support.records import Records
from tests.support.stopped_clock import StoppedClock

ALPINE = ExpandSpec(RepositoryPattern.parse("alpine"))
REDIS = ExpandSpec(RepositoryPattern.parse("redis"))
COPY = CopySpec.parse("quay.io/team/app:1", "team/app:1")


def claimed(records: Records, *specs: TaskSpec) -> list[Claim]:
    """Submit a job of these, and claim its expansions."""
    _, tasks, _ = records.jobs.submit(specs)
    found = [records.claim(task.id, task.fence) for task in tasks if task.spec.kind == "expand"]
    return [claim for claim in found if claim]


def named(prefix: str, count: int = 3, *, source: str = "alpine") -> list[tuple[str, str]]:
    return [(f"team/{prefix}:{number}", f"docker.io/library/{source}:{number}") for number in range(count)]


def held(redis: Redis, claim: Claim) -> dict[str, str]:
    found: dict[str, str] = redis.call("HGETALL", keys.job_targets(claim.task.job))
    return found


@pytest.fixture
def targets(redis: Redis) -> JobTargets:
    return JobTargets(redis)


def test_expansions_of_one_job_claim_different_targets(records: Records, redis: Redis, targets: JobTargets) -> None:
    first, second = claimed(records, ALPINE, REDIS)
    assert targets.claim(first, named("a")) is ClaimState.HELD
    assert targets.claim(second, named("b")) is ClaimState.HELD
    assert len(held(redis, first)) == 6


def test_a_target_that_another_expansion_has_claimed_is_refused_with_both_sources(
    records: Records, redis: Redis, targets: JobTargets
) -> None:
    first, second = claimed(records, ALPINE, REDIS)
    targets.claim(first, named("a"))
    with pytest.raises(TargetRepeated, match=r"'docker.io/library/alpine:2' and 'docker.io/library/redis:2'"):
        targets.claim(second, [*named("b"), *named("a", source="redis")[2:]])
    assert sorted(held(redis, first)) == ["team/a:0", "team/a:1", "team/a:2"]


def test_a_target_of_a_copy_in_the_same_request_is_refused(records: Records, targets: JobTargets) -> None:
    [claim] = claimed(records, ALPINE, *[COPY] * STEP)
    with pytest.raises(TargetRepeated, match=r"'quay.io/team/app:1' and 'docker.io/library/alpine:1'"):
        targets.claim(claim, [("team/app:1", "docker.io/library/alpine:1")])


def test_the_same_claim_may_be_repeated_also_by_the_next_worker(
    records: Records, redis: Redis, targets: JobTargets
) -> None:
    first, _ = claimed(records, ALPINE, REDIS)
    targets.claim(first, named("a"))
    targets.claim(first, named("a"))
    lose(redis, first.task.id)
    records.recovery.expire(first.task.id, LOST)
    again = records.claim(first.task.id, read(records, first.task).fence)
    assert again
    assert targets.claim(again, named("a")) is ClaimState.HELD
    assert targets.claim(first, named("c")) is ClaimState.TAKEN_AWAY


def test_a_refused_expansion_gives_all_of_its_targets_back(records: Records, redis: Redis, targets: JobTargets) -> None:
    first, second = claimed(records, ALPINE, REDIS)
    targets.claim(first, [("team/z:1", "docker.io/library/alpine:1")])
    wanted = [*named("b", 2 * STEP + 1, source="redis"), ("team/z:1", "docker.io/library/redis:1")]
    with pytest.raises(TargetRepeated, match="team/z:1"):
        targets.claim(second, wanted)
    assert list(held(redis, first)) == ["team/z:1"]
    assert targets.claim(first, named("b", 2 * STEP + 1)) is ClaimState.HELD


def test_of_two_expansions_that_cross_each_other_one_is_refused_and_the_other_goes_on(
    records: Records, redis: Redis, targets: JobTargets
) -> None:
    first, second = claimed(records, ALPINE, REDIS)
    one, other = ("team/x:1", "docker.io/library/alpine:1"), ("team/y:1", "docker.io/library/redis:1")
    targets.claim(first, [one])
    targets.claim(second, [other])
    with pytest.raises(TargetRepeated, match="team/y:1"):
        targets.claim(first, [one, other])
    assert targets.claim(second, [one, other]) is ClaimState.HELD
    assert {owner.split()[0] for owner in held(redis, first).values()} == {second.task.id}


def test_an_expansion_that_is_alone_in_its_job_stores_nothing(
    records: Records, redis: Redis, targets: JobTargets
) -> None:
    [claim] = claimed(records, ALPINE)
    assert targets.claim(claim, named("a")) is ClaimState.HELD
    assert held(redis, claim) == {}


def test_a_job_without_expansions_stores_none(records: Records, redis: Redis) -> None:
    job, _, _ = records.jobs.submit([COPY])
    assert redis.call("EXISTS", keys.job_targets(job.id)) == 0


def test_the_claims_are_deleted_with_their_job(records: Records, redis: Redis, targets: JobTargets) -> None:
    first, second = claimed(records, ALPINE, REDIS)
    targets.claim(first, named("a"))
    records.claims.settle("failed", [(first, Outcome()), (second, Outcome())])
    assert len(held(redis, first)) == 3
    records.jobs.delete(first.task.job)
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}


def test_the_claims_of_a_submission_that_died_are_deleted(
    records: Records, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock(redis)

    class Died(Exception):
        pass

    def die(**_: object) -> object:
        raise Died

    monkeypatch.setattr(records.jobs, "_submit", die)
    with pytest.raises(Died):
        records.jobs.submit([COPY, ALPINE])
    assert redis.call("KEYS", "mirror:job:*:targets")
    clock.advance(3600)
    while records.delete_leftovers():
        pass
    assert set(redis.call("KEYS", "mirror:*")) <= {keys.CLOCK, keys.CLOCK_SLOWED}
