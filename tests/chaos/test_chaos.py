"""Nothing that was accepted is lost, and nothing that is read is wrong, whatever is killed.

A handful of kills here; `make chaos` kills two hundred times. ``CHAOS_KILLS`` says how many there are, and
``CHAOS_SEED`` repeats the kills of another run, as far as the machine's own timing allows.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest

from mirror.records.states import LOSSES_ALLOWED
from mirror.redis.client import Redis
from mirror.stewardship.upload_purge import UploadPurge
from mirror.storage.bucket import Bucket
from tests.chaos.havoc import Havoc
from tests.chaos.mirror import PREFIX, Mirror
from tests.chaos.outages import Outages
from tests.chaos.platform_team import PlatformTeam
from tests.chaos.readers import Reader
from tests.chaos.strikes import Strikes
from tests.chaos.upstream import Upstream
from tests.conftest import SettingsForServer
from tests.e2e.processes import eventually

KILLS = int(os.environ.get("CHAOS_KILLS", "6"))
SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
SETTLED_WITHIN = 240.0
"""Seconds from the last kill until every job has ended: leases of 20 s, parked tasks, what is left to copy."""
READERS = 2
BEGUN = monotonic()


def say(text: str) -> None:
    print(f"{monotonic() - BEGUN:7.1f} s  {text}", flush=True)  # noqa: T201 - half an hour without a word is long


def rng(what: str) -> random.Random:
    """Everything random has its own stream, so that none depends on how often another was asked."""
    return random.Random(f"{SEED}-{what}")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror.running(tmp_path) as running:
        yield running


@contextmanager
def reading(readers: list[Reader], mirror: Mirror, team: PlatformTeam) -> Iterator[None]:
    """Have the readers pull what is published, until the block ends."""
    stop = threading.Event()

    def published() -> list[tuple[str, str]]:
        return [local(mirror, source) for source in list(team.published)]

    threads = [
        threading.Thread(target=reader.work, args=(published, stop), name=f"reader-{number}", daemon=True)
        for number, reader in enumerate(readers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def local(mirror: Mirror, source: str) -> tuple[str, str]:
    """Where the mirror keeps it: repository and tag."""
    repository, _, tag = source.partition(":")
    return f"{mirror.registry.host.replace(':', '_')}/{repository}", tag


def lost_or_wrong(mirror: Mirror, team: PlatformTeam, upstream: Upstream) -> list[str]:
    """The jobs that did not end as they must: succeeded, with a digest that the source showed since it was asked."""
    found = []
    for job in team.accepted.values():
        document = team.ended.get(job.id) or team.document(job.id)
        expected = upstream.could_be(job.source, job.asked)
        if document is None or document["state"] != "succeeded" or document["digest"] not in expected:
            found.append(f"{job.source}: {document}\n{mirror.log_of(job.id)}")
    return found


def never_published(mirror: Mirror, team: PlatformTeam, readers: list[Reader]) -> list[str]:
    """What a reader saw under a tag, and no job put there."""
    published = {
        (":".join(local(mirror, team.accepted[job_id].source)), document["digest"])
        for job_id, document in team.ended.items()
        if document["state"] == "succeeded"
    }
    return [f"{tag} showed {digest}" for reader in readers for tag, digest in reader.seen - published]


def horses_that_fell(mirror: Mirror, havoc: Havoc) -> list[str]:
    """Horses that ended otherwise than killed by this test: their workers say so, with the signal."""
    lines = [line for path in mirror.logs.glob("worker-*.log") for line in path.read_text().splitlines()]
    ends = [line for line in lines if "Work-horse terminated unexpectedly" in line]
    others = [line for line in ends if "(signal 9)" not in line]
    return others or (ends if len(ends) > havoc.killed["horse"] else [])


def taken_from_the_living(mirror: Mirror, team: PlatformTeam) -> list[str]:
    """Of the jobs that were retried, those of which a worker lived and lost its claim: no kill explains that."""
    logs = {job_id: mirror.log_of(job_id, lines=sys.maxsize) for job_id in team.retried}
    return [f"{job_id}:\n{log}" for job_id, log in logs.items() if "task was taken away" in log]


def open_uploads(mirror: Mirror) -> list[str]:
    """What S3 itself says is open, ours or not."""
    with closing(mirror.s3.client()) as client:
        listed = client.list_multipart_uploads(Bucket=mirror.s3.bucket)
        assert not listed.get("IsTruncated")
        return [upload["Key"] for upload in listed.get("Uploads", [])]


def swept(mirror: Mirror, bucket: Bucket) -> str:
    """Sweep orphaned uploads as the scheduler does, but for their age: no task has any left."""
    left = len(open_uploads(mirror))
    with closing(Redis.connect(mirror.valkey.url)) as redis:
        return f"{left} uploads were left open by the dead, and {UploadPurge(bucket, redis).sweep(timedelta(0))} swept"


@pytest.mark.versitygw
@pytest.mark.timeout(SETTLED_WITHIN + 120 + 20 * KILLS)
def test_every_accepted_job_succeeds_and_every_pull_verifies_while_everything_is_killed(
    mirror: Mirror, settings_for_server: SettingsForServer
) -> None:
    say(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}, logs in {mirror.logs}")
    outages, strikes = Outages(), Strikes()
    upstream = Upstream(mirror.registry, rng("upstream"))
    team = PlatformTeam(mirror.api, upstream, outages, strikes, rng("team"))
    readers = [Reader(mirror.api, outages, rng(f"reader-{number}")) for number in range(READERS)]
    havoc = Havoc(
        mirror.workers,
        mirror.scheduler,
        {"redis": mirror.valkey, "s3": mirror.s3},
        outages,
        strikes,
        rng("havoc"),
        sent=lambda: upstream.traffic.total,
        say=say,
    )
    team.start()
    with reading(readers, mirror, team):
        eventually(lambda: team.published, within=60, what="the first image is there")
        havoc.rage(KILLS)
        team.post_no_more()
        say(f"{len(team.unfinished())} of {len(team.accepted)} jobs have not ended yet")
        try:
            eventually(team.has_seen_all_end, within=SETTLED_WITHIN, what="every accepted job has ended")
        except AssertionError as error:
            pytest.fail(f"{error}\n{lost_or_wrong(mirror, team, upstream)}\n{mirror.tails()}")
    team.stop()
    upstream.end()

    wrong = [*team.wrong, *havoc.fell, *(finding for reader in readers for finding in reader.wrong)]
    wrong += lost_or_wrong(mirror, team, upstream) + never_published(mirror, team, readers)
    wrong += horses_that_fell(mirror, havoc) + taken_from_the_living(mirror, team)
    assert not wrong, "\n".join([f"CHAOS_SEED={SEED}", *wrong])

    with closing(Bucket.from_settings(settings_for_server(mirror.s3, PREFIX))) as bucket:
        say(swept(mirror, bucket))
        assert open_uploads(mirror) == []
    last = Reader(mirror.api, outages, rng("last"))
    assert all(last.pull(*local(mirror, source)) for source in team.published), last.wrong
    assert last.wrong == []
    say(f"killed {havoc.killed}; {len(team.accepted)} jobs accepted, all succeeded, {team.refused} requests refused")
    say(f"{len(team.retried)} of them were retried, having been struck {LOSSES_ALLOWED} times in a row")
    pulled, verified, refused = (sum(getattr(r, name) for r in readers) for name in ("pulled", "verified", "refused"))
    say(f"{pulled} images pulled in {verified} answers, all verified; {refused} answers refused while S3 was away")
    assert pulled > 0
