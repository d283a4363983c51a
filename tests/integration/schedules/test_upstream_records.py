"""What is left of deleted tags: tombstones, kept images and signatures. And what deaths in between leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from mirror.records.run import Run
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import Script
from mirror.storage.bucket import Bucket
from service.app import create_app
from service.core import Service
from tests.integration.schedules.following import SOURCE, TAGS, FollowedSource, counts, digest_of
from tests.support import images
from tests.support.servers.s3 import RcloneS3

TOMBSTONE = f"mirror/v1/tombstones/{SOURCE}/_tags/1.0"


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def lose(source: FollowedSource, *tags: str) -> Run:
    """Let the source delete tags, and let runs pass until they are due. Return the run that deletes them."""
    source.withdraw(*tags)
    source.next_run()
    source.next_run()
    return source.next_run()


def test_a_tombstone_says_what_the_tag_was_and_how_to_bring_it_back(source: FollowedSource) -> None:
    schedule = source.create(on_delete_upstream="tombstone", gone_for=1)
    source.next_run()
    run = lose(source, "1.0")
    assert run.upstream == counts(gone=1, tombstoned=1)
    digest = digest_of("1.0")
    assert source.tags() == sorted(TAGS)[1:]
    found = source.core.tombstones.read(SOURCE, "1.0")
    assert found is not None
    assert (found.digest, found.source) == (digest, f"{source.registry.host}/{SOURCE}:1.0")
    assert (found.deleted_at, found.schedule, found.run) == (source.clock[0], schedule.id, run.id)
    assert source.is_readable(digest)
    assert source.core.kept.is_kept(SOURCE, digest)

    client = create_app(Service.of(source.core)).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {source.core.settings.admin_token}"
    path = f"/v1/images/{SOURCE}:1.0"
    answer = client.get(path)
    problem = answer.get_json()
    assert (answer.status_code, problem["code"]) == (404, "MANIFEST_UNKNOWN")
    assert f"its source '{found.source}' was deleted" in problem["detail"]
    assert f'PUT {path} {{"digest": "{digest}"}}' in problem["hint"]
    assert client.put(path, json={"digest": str(digest)}).status_code == 201
    assert client.get(path).status_code == 200
    assert (source.next_run().upstream or {})["gone"] == 0
    assert source.shown("1.0") == digest

    assert client.delete(path).status_code == 204
    assert source.core.bucket.size(TOMBSTONE) is None
    assert "deleted the tag" not in client.get(path).get_json()["detail"]


def test_a_tag_that_returns_is_mirrored_and_loses_its_tombstone(source: FollowedSource) -> None:
    source.create(on_delete_upstream="tombstone", gone_for=1)
    source.next_run()
    lose(source, "1.0")
    assert source.core.bucket.size(TOMBSTONE) is not None
    source.publish("1.0", content="second")
    source.next_run()
    assert source.shown("1.0") == digest_of("1.0", "second")
    assert source.core.bucket.size(TOMBSTONE) is None
    assert source.is_readable(digest_of("1.0"))


def test_the_signature_of_a_deleted_image_stays_and_breaks_nothing(source: FollowedSource) -> None:
    signature = images.image(images.layer("signature"))
    tags = [f"sha256-{digest_of(tag).hex}.sig" for tag in ("1.0", "1.1")]
    for tag in tags:
        source.registry.put(signature, SOURCE, tag)
    source.create(gone_for=1)
    source.next_run()
    run = lose(source, "1.0", tags[0])
    assert run.upstream == counts(gone=1, deleted=1)
    assert (run.state, run.note) == ("succeeded", None)
    assert source.shown("1.0") is None
    assert [source.shown(tag) for tag in tags] == [signature.digest] * 2
    assert source.is_readable(signature.digest)
    assert source.is_readable(digest_of("1.1"))


def test_a_repository_that_a_wildcard_lists_no_longer_deletes_nothing(source: FollowedSource) -> None:
    source.publish("1", "2", repository="team/other")
    catalog = ["team/app", "team/other"]
    source.catalog(catalog)
    source.create(gone_for=1, job={"source": f"{source.registry.host}/team/*", "target": "{repository}:{tag}"})
    source.next_run()
    assert source.tags("team/other") == ["1", "2"]
    catalog.remove("team/other")
    source.withdraw("1", "2", repository="team/other")
    run = lose(source, "1.0")
    assert source.tags("team/other") == ["1", "2"]
    assert source.tags() == sorted(TAGS)[1:]
    assert run.note is not None
    assert run.note.code == "REPOSITORY_GONE"
    assert "team/other" in run.note.message


def test_a_source_that_cannot_be_asked_again_keeps_its_tags(source: FollowedSource) -> None:
    source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    source.next_run()
    source.deny("manifests/1.0")
    run = source.next_run()
    assert run.note is not None
    assert (run.state, run.note.code) == ("succeeded", "UPSTREAM_UNCONFIRMED")
    assert (run.upstream or {})["deleted"] == 0
    assert source.shown("1.0") == digest_of("1.0")


def test_a_process_that_was_frozen_until_its_run_had_ended_writes_nothing(source: FollowedSource) -> None:
    source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    followed = source.core.follower.deletions.followed
    written: list[bool] = []

    def write(*arguments: Any) -> bool:
        patch.undo()
        source.core.follower.run(lambda: True)
        source.publish("1.0")
        source.next_run()
        written.append(followed.write(*arguments))
        return written[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(followed, "write", write)
        source.next_run()
    assert written == [False]
    assert [run.state for run in source.runs()] == ["succeeded"] * 4
    assert source.known()[f"{SOURCE}:1.0"].missing == 0
    assert source.shown("1.0") == digest_of("1.0")


class Killed(BaseException):
    """The process has died."""


@dataclass
class Killer:
    """Kills this process before its call number *at* of Redis or S3, counted from 1."""

    at: int
    calls: int = 0

    def call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.startswith(("MainThread", "deletions")):
                self.calls += 1
                if self.calls >= self.at:
                    raise Killed
            return method(*arguments, **options)

        return wrapped

    @contextmanager
    def armed(self) -> Iterator[None]:
        methods = [(Redis, "call"), (Redis, "calls"), (Script, "__call__"), (Script, "each")]
        methods += [(Bucket, name) for name in ("put", "read", "delete", "pages")]
        with pytest.MonkeyPatch.context() as patch:
            for kind, name in methods:
                patch.setattr(kind, name, self.call(getattr(kind, name)))
            yield


@pytest.mark.parametrize("mode", ["delete", "tombstone"])
def test_a_run_that_dies_before_any_call_is_repeated(source: FollowedSource, mode: str) -> None:
    """The process dies before its first call, its successor before its second one, and so on."""
    schedule = source.create(on_delete_upstream=mode, gone_for=1)
    source.next_run()
    source.withdraw("1.0", "1.1")
    source.next_run()
    source.next_run()
    source.publish("3.0")
    source.clock[0] += timedelta(days=1)
    source.core.ticker.run(lambda: True)
    source.work()
    for at in range(1, 1000):
        killer = Killer(at)
        try:
            with killer.armed():
                source.core.follower.run(lambda: True)
        except Killed:
            for tag in ("1.0", "1.1"):  # the leases of the dead process have expired
                source.core.redis.call("DEL", keys.tag_lease(SOURCE, tag))
            continue
        break
    assert at > 30
    run = source.runs()[0]
    deleted, tombstoned = (2, 0) if mode == "delete" else (0, 2)
    assert (run.state, run.note) == ("succeeded", None)
    assert run.upstream == counts(gone=2, deleted=deleted, tombstoned=tombstoned)
    assert source.tags() == ["3.0", "latest"]
    assert {(tag.missing, tag.deleted_by) for tag in source.known().values()} <= {(0, None), (2, run.id), (3, run.id)}
    assert source.schedule().open_run is None
    assert (source.core.bucket.size(TOMBSTONE) is not None) == (mode == "tombstone")
    assert source.core.kept.is_kept(SOURCE, digest_of("1.0")) == (mode == "tombstone")
    assert (source.next_run().upstream or {})["gone"] == 0
    assert sorted(source.known()) == [f"{SOURCE}:{tag}" for tag in source.tags()]
    assert schedule.id == source.schedule().id
