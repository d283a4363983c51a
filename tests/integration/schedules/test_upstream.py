"""The mirror follows its source: what a schedule does when tags appear, move and disappear there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror.oci.local_image import LocalImage
from mirror.redis import keys
from tests.integration.schedules.following import SOURCE, TAGS, FollowedSource, counts, digest_of
from tests.support.fakes.registry import Reply
from tests.support.servers.s3 import RcloneS3


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source and Redis. Any S3 server will do."""
    return rclone_s3


def test_the_next_runs_mirror_follow_and_delete(source: FollowedSource) -> None:
    source.create()
    assert source.next_run().state == "succeeded"
    assert source.tags() == sorted(TAGS)
    source.publish("2.2")
    source.publish("latest", content="second")
    source.withdraw("1.0")
    run = source.next_run()
    assert source.tags() == sorted([*TAGS, "2.2"])
    assert source.shown("latest") == digest_of("latest", "second")
    assert (run.state, run.upstream) == (
        "succeeded",
        counts(gone=1),
    )
    assert source.next_run().upstream == counts(gone=1)
    assert source.shown("1.0") == digest_of("1.0")
    run = source.next_run()
    assert (run.state, run.note, run.upstream) == (
        "succeeded",
        None,
        counts(gone=1, deleted=1),
    )
    assert source.tags() == sorted([*TAGS, "2.2"])[1:]
    assert source.shown("1.0") is None
    assert source.next_run().upstream == counts()
    assert f"{SOURCE}:1.0" not in source.known()
    assert source.core.bucket.size(f"mirror/v1/tombstones/{SOURCE}/_tags/1.0") is None
    source.publish("1.0")
    source.next_run()
    assert source.shown("1.0") == digest_of("1.0")


def _lists(source: FollowedSource, what: str) -> None:
    """Let the source list its tags wrongly."""
    path = f"/v2/{SOURCE}/tags/list?n=1000"
    if what == "an outage":
        source.listing.reply = Reply(503)
    elif what == "null":
        source.listing.show(None)
    elif what == "cut off without a Link":
        source.listing.show(TAGS[:2])
    elif what == "a next page that is missing":
        source.listing.show(TAGS[:2], Link=f'<{path}&last=1.1>; rel="next"')
        source.registry.script(lambda request, _: Reply(500) if "last" in request.query else None)
    elif what == "pages in a circle":
        source.listing.show(TAGS[:2], Link=f'<{path}>; rel="next"')
    else:
        source.listing.reply = Reply(200, {"Content-Type": "application/json"}, b'{"tags": ["1.0", "1.1"')


@pytest.mark.parametrize(
    "what",
    [
        "an outage",
        "null",
        "cut off without a Link",
        "a next page that is missing",
        "pages in a circle",
        "a body that is cut off",
    ],
)
def test_a_list_that_is_wrong_deletes_nothing(source: FollowedSource, what: str) -> None:
    source.create(gone_for=1)
    source.next_run()
    _lists(source, what)
    runs = [source.next_run() for _ in range(3)]
    assert source.tags() == sorted(TAGS)
    assert all(run.upstream is None or not run.upstream["deleted"] for run in runs)
    assert {run.state for run in runs} <= (
        {"succeeded"} if what == "cut off without a Link" else {"failed", "canceled"}
    )
    source.listing.reply = None
    source.registry.scripts[1:] = []
    assert source.next_run().state == "succeeded"
    assert {tag.missing for tag in source.known().values()} == {0}


def test_a_brown_out_of_a_day_deletes_nothing(source: FollowedSource) -> None:
    source.create(cron="0 */6 * * *", gone_for=1)
    source.next_run()
    source.listing.show(["latest"])
    for _ in range(5):
        run = source.next_run()
        assert run.upstream is not None
        assert (run.upstream["gone"], run.upstream["deleted"]) == (2, 0)
    source.listing.reply = None
    run = source.next_run()
    assert (run.upstream or {})["gone"] == 0
    assert source.tags() == sorted(TAGS)


def test_the_brake_holds_and_is_ignored_once(source: FollowedSource) -> None:
    source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0", "1.1")
    source.next_run()
    source.next_run()
    run = source.next_run()
    assert run.note is not None
    assert (run.state, run.note.code) == ("succeeded", "DELETE_BRAKE")
    assert run.upstream == counts(gone=2, braked=2)
    assert source.tags() == sorted(TAGS)
    run = source.run_now(ignores_brake=True)
    assert (run.note, run.upstream) == (None, counts(gone=2, deleted=2))
    assert source.tags() == ["latest"]


def test_a_tag_that_was_changed_here_stays(source: FollowedSource) -> None:
    """Somebody has pointed the tag at another image since the last run."""
    source.create(gone_for=1, job={"tags": {"allow": [{"regex": "1.*"}]}})
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    source.next_run()
    target, other = LocalImage(SOURCE, "1.0"), LocalImage(SOURCE, "1.1")
    source.core.retagger.retag(target, other, allowed=lambda _: True)
    run = source.next_run()
    assert (run.upstream or {})["deleted"] == 0
    assert source.shown("1.0") == digest_of("1.1")
    assert f"{SOURCE}:1.0" not in source.known()


def test_a_copy_that_asked_the_source_later_wins(source: FollowedSource) -> None:
    """The tag is published again, and another job mirrors it, while the run asks its source for it."""
    source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    source.next_run()
    deleter, deleted = source.core.deleter, []

    def published_meanwhile(*arguments: object, **options: object) -> bool:
        source.publish("1.0")
        job = source.harness.submit(f"{SOURCE}:1.0", f"{SOURCE}:1.0")
        assert source.harness.run_work_horses(job).state == "succeeded"
        deleted.append(type(deleter).delete_unless_changed(deleter, *arguments, **options))  # type: ignore[arg-type]  # passed on
        return deleted[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deleter, "delete_unless_changed", published_meanwhile)
        source.next_run()
    assert deleted == [False]
    assert source.shown("1.0") == digest_of("1.0")


def test_what_redis_has_lost_is_not_deleted(source: FollowedSource) -> None:
    schedule = source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    source.core.redis.call("DEL", keys.schedule_tags(schedule.id))
    assert [(source.next_run().upstream or {})["gone"] for _ in range(3)] == [0] * 3
    assert source.tags() == sorted(TAGS)


def test_a_schedule_that_followed_no_deletions_for_a_while_starts_again(source: FollowedSource) -> None:
    schedule = source.create(gone_for=1)
    source.next_run()
    source.withdraw("1.0")
    source.next_run()
    definition = schedule.definition
    keeping = replace(definition, upstream=replace(definition.upstream, on_delete="keep"))
    source.core.schedules.replace(source.schedule(), keeping)
    assert source.next_run().upstream is None
    source.core.schedules.replace(source.schedule(), definition)
    assert [(source.next_run().upstream or {})["gone"] for _ in range(2)] == [0] * 2
    assert source.tags() == sorted(TAGS)


def test_moves_are_reported_and_not_followed(source: FollowedSource) -> None:
    source.create(on_delete_upstream="keep", on_move_upstream="report")
    assert source.next_run().upstream == {"moved": 0}
    source.publish("1.0", "1.1", content="second")
    source.publish("3.0")
    run = source.next_run()
    assert (run.state, run.upstream) == ("succeeded", {"moved": 2})
    assert [source.shown(tag) for tag in ("1.0", "1.1", "3.0")] == [digest_of(tag) for tag in ("1.0", "1.1", "3.0")]
