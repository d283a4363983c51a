"""A release is seen through ``/v2`` at each process of the service: each tag is fresh, and all of them have moved.

Each tag is an atomic register of its own (`TagHistory`), and a release changes all of them at once.
"""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from mirror.catalog.current_tags import CurrentTags
from mirror.jobs.cancel import cancel_job
from mirror.storage.s3 import S3Clients
from tests.api.live_service import LiveService
from tests.api.process_clients import READ_KINDS, ProcessClient
from tests.conftest import SettingsForServer, bucket_for
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness, mark_built
from tests.support.release_set import ReleaseSet
from tests.support.servers import RcloneS3
from tests.support.tag_history import TagHistory

FIRST_LINK: Final = 5
"""The write of a release of three tags that moves the first of them: after the journal and three histories."""


@pytest.fixture
def harness(
    live: LiveService,
    rclone_s3: RcloneS3,
    redis_url: str,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Iterator[Harness]:
    """A worker on the stores of `live`."""
    with FakeRegistry() as registry:
        networks = (ipaddress.ip_network("127.0.0.0/8"),)
        fields = {"insecure_registries": frozenset({registry.host}), "allowed_networks": networks}
        settings = settings_for_server(rclone_s3, "live", redis_url=redis_url, **fields)
        harness = Harness.of(registry, settings, bucket_for(settings, s3_clients))
        mark_built(harness.redis)
        yield harness
        harness.core.close()


@contextmanager
def read_by_many(live: LiveService, histories: list[TagHistory]) -> Iterator[list[ProcessClient]]:
    """Read the tags over and over during the block, at each process. Then check that no read was stale."""
    over = threading.Event()
    clients, own = ProcessClient.of_each(live), ProcessClient.of_each(live)

    def read(client: ProcessClient, rng: random.Random) -> None:
        while not over.is_set():
            client.read_tag(rng.choice(histories), rng.choice(READ_KINDS))

    with ThreadPoolExecutor(len(clients)) as pool:
        reading = [pool.submit(read, client, random.Random(n)) for n, client in enumerate(clients)]
        try:
            yield own
        finally:
            over.set()
    for each in reading:
        each.result()
    for client in (*clients, *own):
        client.close()
    assert [stale for history in histories for stale in history.stale_reads()] == []


def check(clients: list[ProcessClient], histories: list[TagHistory]) -> None:
    """Fails the test unless every process shows for every tag what the last change made of it, in every way."""
    for client in clients:
        for history in histories:
            for kind in READ_KINDS:
                assert client.read_tag(history, kind) == history.digest, (history.name, kind, client.pid)


def check_known(harness: Harness, histories: list[TagHistory]) -> None:
    """Fails the test unless Redis knows what each tag shows, so that pulls need no request to S3."""
    for history in histories:
        repository, _, tag = history.name.rpartition(":")
        [known] = CurrentTags(harness.redis).read([repository], tag)
        assert (known.digest, known.is_changing) == (history.digest, False), history.name


def histories_of(tags: ReleaseSet) -> list[TagHistory]:
    """The histories of the tags, which show their old images."""
    histories = [TagHistory(name) for name in tags.old]
    for history in histories:
        if old := tags.old[history.name]:
            with history.change(old):
                pass
    return histories


@contextmanager
def released(tags: ReleaseSet, histories: list[TagHistory], *, is_answered: bool = True) -> Iterator[None]:
    """Move all tags in the block."""
    with ExitStack() as changes:
        for history in histories:
            changes.enter_context(history.change(tags.new[history.name], is_answered=is_answered))
        yield


def test_no_process_serves_a_mix_after_a_release_was_answered(live: LiveService, harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 9, fresh=3, prefix="fresh/release")
    histories = histories_of(tags)
    with read_by_many(live, histories) as clients:
        for _ in range(3):
            check(clients, histories)
            with released(tags, histories):
                assert tags.run().state == "succeeded"
            check(clients, histories)
            check_known(harness, histories)
            tags.new = {name: tags.move_source(name, f"newer than {digest}") for name, digest in tags.new.items()}


@pytest.mark.parametrize("number", [FIRST_LINK, FIRST_LINK + 1])
def test_a_release_that_died_is_completed_at_every_process(live: LiveService, harness: Harness, number: int) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1, prefix=f"fresh/dies-{number}")
    histories = histories_of(tags)
    with read_by_many(live, histories) as clients:
        check(clients, histories)
        job, task = tags.staged()
        check(clients, histories)
        with released(tags, histories, is_answered=False):
            assert tags.die(number, "after", task.id, task.fence)
        tags.end_leases(job)
        tags.lose(job)
        with released(tags, histories):
            assert harness.run_tasks(job).state == "succeeded"
        check_known(harness, histories)
        check(clients, histories)


def test_a_release_that_was_undone_shows_the_old_images_at_every_process(live: LiveService, harness: Harness) -> None:
    tags = ReleaseSet.of(harness, 2, fresh=1, prefix="fresh/undone")
    histories = histories_of(tags)
    with read_by_many(live, histories) as clients:
        job, task = tags.staged()
        with released(tags, histories, is_answered=False):
            assert tags.die(FIRST_LINK + 1, "after", task.id, task.fence)
        cancel_job(harness.jobs, job.id)
        tags.lose(job)
        tags.end_leases(job)
        with ExitStack() as undoing:
            for history in histories:
                undoing.enter_context(history.change(tags.old[history.name]))
            tags.recover()
        check_known(harness, histories)
        check(clients, histories)
        assert tags.shown() == tags.old
