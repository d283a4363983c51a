"""Whatever is killed, no accepted job is lost and no pulled byte is wrong.

``CHAOS_KILLS`` sets the number of kills: a few by default, two hundred for `make chaos`. ``CHAOS_SEED`` repeats the
kills of another run, as far as the machine's timing allows.
"""

from __future__ import annotations

import inspect
import os
import random
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest

from mirror.jobs import claim
from mirror.records.states import LOSSES_ALLOWED
from mirror.settings import Settings
from mirror.wiring import build
from tests.chaos.clients import Node, PlatformTeam
from tests.chaos.fault_injection import FaultInjector, FaultLog
from tests.chaos.mirror import PREFIX, Mirror
from tests.chaos.upstream import Upstream
from tests.conftest import SettingsForServer
from tests.e2e.processes import eventually

KILLS = int(os.environ.get("CHAOS_KILLS", "6"))
SEED = os.environ.get("CHAOS_SEED") or secrets.token_hex(4)
SETTLED_WITHIN = 240.0
"""Seconds from the last kill until every job has ended: leases of 20 s, parked tasks, and the rest of the copies."""
NODES = 2
LOST_CLAIM_EVENT = "task was taken away"
"""The start of a worker's log event."""
STARTED = monotonic()


def say(text: str) -> None:
    print(f"{monotonic() - STARTED:7.1f} s  {text}", flush=True)  # noqa: T201 - progress of a run of half an hour


def rng(purpose: str) -> random.Random:
    """Return a random generator for one purpose.

    None depends on how often another is used.
    """
    return random.Random(f"{SEED}-{purpose}")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror.running(tmp_path) as running:
        yield running


@contextmanager
def pulling(nodes: list[Node], mirror: Mirror, team: PlatformTeam) -> Iterator[None]:
    """Let the nodes pull published images during the block."""
    stop = threading.Event()

    def published() -> list[tuple[str, str]]:
        return [local(mirror, source) for source in list(team.published)]

    threads = [
        threading.Thread(target=node.run, args=(published, stop), name=f"node-{number}", daemon=True)
        for number, node in enumerate(nodes)
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
    """Return the repository and tag of a source in the mirror."""
    repository, _, tag = source.partition(":")
    return f"{mirror.registry.host.replace(':', '_')}/{repository}", tag


def wrong_results(mirror: Mirror, team: PlatformTeam, upstream: Upstream) -> list[str]:
    """Return the jobs that did not succeed, or with a digest the source never had.

    Only digests that the source had since the POST are right.
    """
    found = []
    for job in team.accepted.values():
        document = team.ended.get(job.id) or team.document(job.id)
        expected = upstream.digests_since(job.source, job.posted)
        if document is None or document["state"] != "succeeded" or document["digest"] not in expected:
            found.append(f"{job.source}: {document}\n{mirror.log_of(job.id)}")
    return found


def unpublished_digests(mirror: Mirror, team: PlatformTeam, nodes: list[Node]) -> list[str]:
    """Return the digests that a node got for a tag although no job published them."""
    published = {
        (":".join(local(mirror, team.accepted[job_id].source)), document["digest"])
        for job_id, document in team.ended.items()
        if document["state"] == "succeeded"
    }
    return [f"{tag} had {digest}" for node in nodes for tag, digest in node.seen - published]


def crashed_work_horses(mirror: Mirror, injector: FaultInjector) -> list[str]:
    """Return the log lines of workers about work horses that this test did not kill."""
    lines = [line for path in mirror.logs.glob("worker-*.log") for line in path.read_text().splitlines()]
    ends = [line for line in lines if "Work-horse terminated unexpectedly" in line]
    others = [line for line in ends if "(signal 9)" not in line]
    return others or (ends if len(ends) > injector.killed["work_horse"] else [])


def lost_claims_of_live_workers(mirror: Mirror, team: PlatformTeam) -> list[str]:
    """Return the retried jobs of which a live worker lost its claim.

    No kill explains that.
    """
    logs = {job_id: mirror.log_of(job_id, lines=sys.maxsize) for job_id in team.retried}
    return [f"{job_id}:\n{log}" for job_id, log in logs.items() if LOST_CLAIM_EVENT in log]


def open_uploads(mirror: Mirror) -> list[str]:
    """Return the keys of all open uploads according to S3."""
    with closing(mirror.s3.client()) as client:
        listed = client.list_multipart_uploads(Bucket=mirror.s3.bucket)
        assert not listed.get("IsTruncated")
        return [upload["Key"] for upload in listed.get("Uploads", [])]


def purge_uploads(mirror: Mirror, settings: Settings) -> str:
    """Purge uploads as the scheduler does, but of any age, because no task is left."""
    left = len(open_uploads(mirror))
    with closing(build(replace(settings, redis_url=mirror.valkey.url))) as core:
        purged = core.upload_purge.purge(timedelta(0))
    return f"{left} uploads were left open by killed processes, and {purged} were purged"


def summarize(injector: FaultInjector, team: PlatformTeam, nodes: list[Node]) -> None:
    say(f"killed {injector.killed}; {len(team.accepted)} jobs accepted, all succeeded, {team.refused} requests refused")
    say(f"{len(team.retried)} of them were retried after {LOSSES_ALLOWED} losses in a row")
    pulled, verified, refused = (sum(getattr(n, name) for n in nodes) for name in ("pulled", "verified", "refused"))
    say(f"{pulled} images pulled in {verified} responses, all verified; {refused} requests refused while S3 was down")


@pytest.mark.versitygw
@pytest.mark.timeout(SETTLED_WITHIN + 120 + 20 * KILLS)
def test_every_accepted_job_succeeds_and_every_pull_verifies_while_everything_is_killed(
    mirror: Mirror, settings_for_server: SettingsForServer
) -> None:
    say(f"CHAOS_SEED={SEED} CHAOS_KILLS={KILLS}, logs in {mirror.logs}")
    faults = FaultLog()
    upstream = Upstream(mirror.registry, rng("upstream"))
    team = PlatformTeam(mirror.api, upstream, faults, rng("team"))
    nodes = [Node(mirror.api, faults, rng(f"node-{number}")) for number in range(NODES)]
    injector = FaultInjector(
        mirror.workers,
        mirror.scheduler,
        {"redis": mirror.valkey, "s3": mirror.s3},
        faults,
        rng("faults"),
        sent=lambda: upstream.traffic.total,
        say=say,
    )
    team.start()
    with pulling(nodes, mirror, team):
        eventually(lambda: team.published, within=60, what="the first image is there")
        injector.run(KILLS)
        team.stop_posting()
        say(f"{len(team.unfinished())} of {len(team.accepted)} jobs have not ended yet")
        try:
            eventually(team.has_seen_all_end, within=SETTLED_WITHIN, what="every accepted job has ended")
        except AssertionError as error:
            pytest.fail(f"{error}\n{wrong_results(mirror, team, upstream)}\n{mirror.tails()}")
    team.stop()
    upstream.end()

    wrong = [*team.wrong, *injector.crashed, *(finding for node in nodes for finding in node.wrong)]
    wrong += wrong_results(mirror, team, upstream) + unpublished_digests(mirror, team, nodes)
    wrong += crashed_work_horses(mirror, injector) + lost_claims_of_live_workers(mirror, team)
    assert not wrong, "\n".join([f"CHAOS_SEED={SEED}", *wrong])

    say(purge_uploads(mirror, settings_for_server(mirror.s3, PREFIX)))
    assert open_uploads(mirror) == []
    last = Node(mirror.api, faults, rng("last"))
    assert all(last.pull(*local(mirror, source)) for source in team.published), last.wrong
    assert last.wrong == []
    assert sum(node.pulled for node in nodes) > 0
    summarize(injector, team, nodes)


def test_the_event_of_a_lost_claim_is_logged_by_the_job_runner() -> None:
    """Otherwise `lost_claims_of_live_workers` would find nothing."""
    assert f'"{LOST_CLAIM_EVENT}' in inspect.getsource(claim)
