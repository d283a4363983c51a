"""A tag is never served stale, by any process of the service, whatever changes it and whatever fails.

Each tag must behave as an atomic register with one writer, which `TagHistory` defines. So a change that was answered is
seen by every read that begins later, at every process. A read during a change sees the old or the new state. No read
sees an older state than a read that ended before it, at any process.

The writers change tags as users do: by jobs, and by PUT and DELETE of ``/v1/images``. After each answered change they
read the tag at each process. Meanwhile other threads read all tags over kept connections to each process.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from mirror.oci.local_image import LocalImage
from mirror.storage.s3 import S3Clients
from tests.api.fresh_mirror import ACTIONS, BASE, TAGS, FreshMirror, TagWriter
from tests.api.live_service import LiveService
from tests.api.process_clients import READ_KINDS, ProcessClient
from tests.conftest import SettingsForServer, bucket_for
from tests.support import images
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import Harness
from tests.support.servers import RcloneS3, ValkeyServer
from tests.support.tag_history import TagHistory

PREFIX: Final = "fresh"
CHANGES: Final = 16
"""Changes of each repository."""
ROUNDS_WITHOUT_REDIS: Final = 3
SOON: Final = 30.0
"""Seconds for all reads without Redis, which are dozens. A single one that waits for Redis takes 10 s and more."""


@pytest.fixture(scope="module")
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("fresh-valkey"), append_only=True) as server:
        yield server


@pytest.fixture(scope="module")
def own_service(
    own_valkey: ValkeyServer, rclone_s3: RcloneS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveService]:
    with LiveService(tmp_path_factory.mktemp("fresh-service"), own_valkey, rclone_s3, PREFIX) as service:
        yield service


@pytest.fixture
def fresh(
    own_service: LiveService,
    own_valkey: ValkeyServer,
    rclone_s3: RcloneS3,
    settings_for_server: SettingsForServer,
    s3_clients: dict[str, S3Clients],
) -> Iterator[FreshMirror]:
    """A mirror whose index is built. All tests share its bucket: give each repositories of its own."""
    with FakeRegistry() as registry:
        fields = {
            "insecure_registries": frozenset({registry.host}),
            "allowed_networks": (ipaddress.ip_network("127.0.0.0/8"),),
        }
        settings = settings_for_server(rclone_s3, PREFIX, redis_url=own_valkey.url, **fields)
        harness = Harness.of(registry, settings, bucket_for(settings, s3_clients))
        harness.core.rebuilder.rebuild(lambda: True)
        environment = {
            **rclone_s3.settings_env(PREFIX),
            "MIRROR_REDIS_URL": own_valkey.url,
            "MIRROR_INSECURE_REGISTRIES": registry.host,
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        clients = ProcessClient.of_each(own_service)
        mirror = FreshMirror(own_service, own_valkey, harness, clients, environment)
        for number in range(2):
            image = images.image(images.layer(f"base {number}", 200))
            registry.put(image, "source/base", str(number))
            assert harness.mirror(f"source/base:{number}", f"{BASE}:{number}").state == "succeeded"
            mirror.base.append(image.digest)
        yield mirror
        for client in clients:
            client.close()
        harness.core.close()


def test_no_process_serves_a_tag_as_it_was_before_a_change_was_answered(fresh: FreshMirror) -> None:
    writers = [TagWriter(fresh, f"fresh/hammer-{number}") for number in range(2)]
    histories = [history for writer in writers for history in writer.histories]
    with fresh.read_by_many(histories), ThreadPoolExecutor(len(writers)) as pool:
        for writing in [pool.submit(writer.change, CHANGES) for writer in writers]:
            writing.result()
    fresh.check(*histories)
    for writer in writers:
        actions = [action for _, action in writer.done]
        assert set(actions) == set(ACTIONS)
        assert "delete" in actions[: -len(TAGS)], "a tag is deleted and made again"


def test_two_changes_of_one_tag_at_once_leave_all_processes_with_the_same_image(fresh: FreshMirror) -> None:
    """Which of the two wins is not defined. The bucket says which one did."""
    target, [one, two] = LocalImage("fresh/race", "1"), fresh.clients
    with ThreadPoolExecutor(2) as pool:
        for _ in range(8):
            both = zip((one, two), fresh.base, strict=True)
            moved = [
                pool.submit(client.administer, "PUT", f"/v1/images/{target}", {"from": f"{BASE}@{digest}"})
                for client, digest in both
            ]
            assert {each.result().status for each in moved} <= {200, 201}
            winner = TagHistory(str(target))
            with winner.change(fresh.harness.core.links.current("fresh/race", "1")):
                pass
            fresh.check(winner)


def test_an_index_that_is_lost_and_rebuilt_makes_no_tag_stale(fresh: FreshMirror) -> None:
    """Tags change before the rebuild, after it has listed the bucket, and when it has ended."""
    writer = TagWriter(fresh, "fresh/rebuilt")
    listed, changed = threading.Event(), threading.Event()

    def pause() -> bool:
        listed.set()
        return changed.wait(60)

    with fresh.read_by_many(writer.histories), ThreadPoolExecutor(1) as pool:
        writer.change(4)
        for _ in range(2):
            fresh.harness.redis.call("FLUSHALL")
            fresh.check(*writer.histories)
            writer.change(2, lists=False)
            listed.clear()
            changed.clear()
            rebuilding = pool.submit(fresh.harness.core.rebuilder.rebuild, pause)
            assert listed.wait(60)
            writer.change(3, lists=False)
            changed.set()
            assert rebuilding.result()
            fresh.check(*writer.histories)
            fresh.check_lists(*writer.histories)
            writer.change(2)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_pulls_go_on_and_are_right_while_redis_is_away(fresh: FreshMirror, how: str) -> None:
    """No pull waits for Redis again and again. Changes go on when Redis is back."""
    writer = TagWriter(fresh, f"fresh/{how}")
    with fresh.read_by_many(writer.histories):
        writer.change(5)
        pid = fresh.valkey.pid
        assert pid is not None
        if how == "killed":
            fresh.valkey.kill()
        else:
            os.kill(pid, signal.SIGSTOP)
        try:
            begun = monotonic()
            for _ in range(ROUNDS_WITHOUT_REDIS):
                fresh.check(*writer.histories)
            shown = next(history for history in writer.histories if history.digest)
            image = fresh.clients[0].administer("GET", f"/v1/images/{shown.name}")
            assert (image.status, json.loads(image.body)["checked_at"]) == (200, None)
            assert monotonic() - begun < SOON
        finally:
            if how == "killed":
                fresh.valkey.restart()
            else:
                os.kill(pid, signal.SIGCONT)
        fresh.check(*writer.histories)
        writer.change(4)


def test_a_redis_that_lost_its_last_writes_makes_no_tag_stale(fresh: FreshMirror, tmp_path: Path) -> None:
    """A failover to a replica loses the last writes, and so does a restart from an older snapshot."""
    writer = TagWriter(fresh, "fresh/restored", tags=["moved", "deleted", "new"])
    moved, deleted, new = writer.histories
    writer.publish(moved)
    writer.publish(deleted)
    fresh.check(*writer.histories)
    files = fresh.valkey.directory / "appendonlydir"
    shutil.copytree(files, tmp_path / "before")
    writer.publish(moved)
    writer.delete(deleted)
    writer.publish(new)
    fresh.check(*writer.histories)
    fresh.valkey.kill()
    shutil.rmtree(files)
    shutil.copytree(tmp_path / "before", files)
    fresh.valkey.restart()
    fresh.check(*writer.histories)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_at_the_commit_leaves_the_old_or_the_new_image_and_its_task_the_new(
    fresh: FreshMirror, when: str
) -> None:
    """It dies right before or right after the PUT of the tag's link. The index is written after that."""
    writer = TagWriter(fresh, f"fresh/dies-{when}", tags=["1"])
    [history] = writer.histories
    with fresh.read_by_many([history]):
        writer.publish(history)
        fresh.check(history)
        job, digest = writer.submit(history)
        [task] = fresh.harness.jobs.tasks(job.id, 1)
        with history.change(digest, is_answered=False):
            fresh.die(when, task.id, task.fence)
        for client in fresh.clients:
            assert client.read_tag(history, "GET") in history.digests
        fresh.end_lease(history)
        fresh.end_task_lease(task.id)
        with history.change(digest):
            assert fresh.harness.run_tasks(job).state == "succeeded"
        fresh.check(history)
        fresh.check_lists(history)


def test_a_change_that_died_after_its_commit_is_seen_for_good_once_it_was_seen(fresh: FreshMirror) -> None:
    """Redis goes away and comes back after the worker died, and nothing has repaired its index yet."""
    writer = TagWriter(fresh, "fresh/seen", tags=["1"])
    [history] = writer.histories
    with fresh.read_by_many([history]):
        writer.publish(history)
        fresh.check(history)
        job, digest = writer.submit(history)
        [task] = fresh.harness.jobs.tasks(job.id, 1)
        with history.change(digest, is_answered=False):
            fresh.die("after", task.id, task.fence)
        for away in (False, True, False):
            if away:
                fresh.valkey.kill()
            elif not fresh.valkey.is_running:
                fresh.valkey.restart()
            for client in fresh.clients:
                for kind in READ_KINDS:
                    assert client.read_tag(history, kind) in history.digests


def test_a_tag_whose_deletion_died_halfway_is_gone_when_it_is_deleted_again(fresh: FreshMirror) -> None:
    """The second request finds nothing in the bucket, and the index may still list the tag."""
    writer = TagWriter(fresh, "fresh/half-deleted", tags=["1"])
    [history] = writer.histories
    with fresh.read_by_many([history]):
        writer.publish(history)
        fresh.check(history)
        with history.change(None, is_answered=False):
            fresh.die("after", history.name)
        fresh.end_lease(history)
        with history.change(None):
            assert fresh.clients[0].administer("DELETE", f"/v1/images/{history.name}").status in (204, 404)
        fresh.check(history)
        writer.publish(history)
        fresh.check(history)
