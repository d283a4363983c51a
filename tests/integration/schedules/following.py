"""A schedule that mirrors a scripted registry and follows its deletions, on a clock that the test sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.records.followed import FollowedTag
from mirror.records.run import Run
from mirror.records.schedule import Schedule
from mirror.records.schedule_schema import read_definition
from mirror.records.states import UNFINISHED
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.wiring import Core, build
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request
from tests.support.harness import Harness, mark_built

NAME = "nightly"
SOURCE = "team/app"
TAGS = ("1.0", "1.1", "latest")


@dataclass
class Listing:
    """Replaces what the registry lists, as long as *reply* is set."""

    reply: Reply | None = None

    def __call__(self, request: Request, _: Reply) -> Reply | None:
        return self.reply if request.path.endswith("/tags/list") else None

    def show(self, tags: Iterable[str] | None, **headers: str) -> None:
        """List these tags in one page. None lists null, as Go does for no tags."""
        body = json.dumps({"name": SOURCE, "tags": None if tags is None else sorted(tags)}).encode()
        self.reply = Reply(200, {"Content-Type": "application/json", **headers}, body)


@dataclass
class FollowedSource:
    """The fleet, its source and the schedule."""

    harness: Harness
    clock: list[datetime]
    listing: Listing = field(default_factory=Listing)

    @classmethod
    def of(cls, registry: FakeRegistry, settings: Settings, bucket: Bucket) -> Self:
        clock = [datetime(2026, 3, 2, 12, 0, tzinfo=UTC)]
        core = build(settings, bucket=bucket, sleep=lambda _: None, now=lambda: clock[0])
        mark_built(core.redis)
        found = cls(Harness(registry, core), clock)
        registry.script(found.listing)
        return found

    @property
    def core(self) -> Core:
        return self.harness.core

    @property
    def registry(self) -> FakeRegistry:
        return self.harness.registry

    def publish(self, *tags: str, content: str = "first", repository: str = SOURCE) -> None:
        """Let the source have an image under each tag, which differs by *content*."""
        for tag in tags:
            self.registry.put(images.image(images.layer(f"{tag} {content}")), repository, tag)

    def withdraw(self, *tags: str, repository: str = SOURCE) -> None:
        for tag in tags:
            self.registry.remove(repository, tag)

    def catalog(self, repositories: Sequence[str]) -> None:
        """Let the registry list *repositories*, also after these were changed."""

        def reply(request: Request, _: Reply) -> Reply | None:
            if request.path != "/v2/_catalog":
                return None
            body = json.dumps({"repositories": list(repositories)}).encode()
            return Reply(200, {"Content-Type": "application/json"}, body)

        self.registry.script(reply)

    def deny(self, path: str) -> None:
        """Answer 403 at every path that ends so."""
        self.registry.script(lambda request, _: Reply(403) if request.path.endswith(path) else None)

    def create(self, *, cron: str = "0 3 * * *", job: Mapping[str, Any] | None = None, **fields: Any) -> Schedule:
        image = {"source": {"repository": f"{self.registry.host}/{SOURCE}"}, "target": f"{SOURCE}:{{tag}}"}
        wanted = {"name": NAME, "cron": cron, "on_delete_upstream": "delete", "job": {**image, **(job or {})}}
        return self.core.schedules.create(read_definition({**wanted, **fields}))

    def schedule(self) -> Schedule:
        return self.core.schedules.store.schedule(NAME)

    def runs(self) -> list[Run]:
        """The runs, the newest first."""
        return self.core.schedules.runs.runs(self.schedule(), limit=100)

    def next_run(self) -> Run:
        """Set the clock to the next slot, and let the run end. Return it."""
        next_run_at = self.schedule().next_run_at
        assert next_run_at is not None
        self.clock[0] = next_run_at
        self.core.ticker.run(lambda: True)
        return self.finish()

    def run_now(self, **options: Any) -> Run:
        self.clock[0] += timedelta(minutes=1)
        self.core.schedules.run_now(NAME, **options)
        return self.finish()

    def finish(self) -> Run:
        """Let workers run the last run's job, and the scheduler end the run."""
        self.work()
        self.core.follower.run(lambda: True)
        return self.runs()[0]

    def work(self) -> None:
        """Let workers run the last run's job. The run is following then, if its schedule follows deletions.

        A job that waits for its source is canceled, as after a deadline.
        """
        job = self.harness.run_work_horses(self.core.jobs.job(str(self.runs()[0].job)))
        if job.state in UNFINISHED:
            self.core.jobs.cancel(job.id)
        self.core.ticker.run(lambda: True)

    def tags(self, repository: str = SOURCE) -> list[str]:
        """The tags that the mirror lists."""
        found, _ = self.core.index.images(limit=1000, repository=repository, wanted=lambda _: True)
        return [entry.tag for entry in found]

    def shown(self, tag: str, repository: str = SOURCE) -> Digest | None:
        return self.core.links.current(repository, tag)

    def known(self) -> dict[str, FollowedTag]:
        return self.core.follower.deletions.followed.read(self.schedule().id)

    def is_readable(self, digest: Digest, repository: str = SOURCE) -> bool:
        return bool(self.core.reader.image(LocalImage(repository, digest=digest)))


def digest_of(tag: str, content: str = "first") -> Digest:
    return images.image(images.layer(f"{tag} {content}")).digest


def counts(**some: int) -> dict[str, int]:
    """What a run shows of its source: these, and 0 for all others."""
    return {**dict.fromkeys(("moved", "gone", "deleted", "tombstoned", "braked"), 0), **some}
