"""A mirror of two processes, and writers that change its tags and read them at each process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from mirror.errors import WorkerLost
from mirror.oci.digest import Digest
from mirror.records.job import Job
from mirror.records.states import LOSSES_ALLOWED
from mirror.records.task import ErrorReport
from mirror.redis import keys
from tests.api.live_service import LiveService
from tests.api.process_clients import READ_KINDS, ProcessClient, ReadKind
from tests.support import images
from tests.support.harness import Harness
from tests.support.servers import ValkeyServer
from tests.support.servers.process import REPOSITORY
from tests.support.tag_history import TagHistory

SEED: Final = 20_261_128
BASE: Final = "base/app"
"""The repository of the images for retags."""
TAGS: Final = ("1", "stable")

Action = Literal["publish", "retag", "roll back", "delete"]
ACTIONS: Final[tuple[Action, ...]] = ("publish", "retag", "roll back", "delete")


@dataclass
class FreshMirror:
    """A service of two processes with a Valkey of its own, and a worker in this process."""

    service: LiveService
    valkey: ValkeyServer
    harness: Harness
    clients: list[ProcessClient]
    environment: dict[str, str]
    base: list[Digest] = field(default_factory=list)
    """Images of the repository `BASE`, for retags."""

    @contextmanager
    def read_by_many(self, histories: Sequence[TagHistory]) -> Iterator[None]:
        """Read the tags over and over during the block, at each process. Then check all reads."""
        over = threading.Event()
        clients = ProcessClient.of_each(self.service)

        def read(client: ProcessClient, rng: random.Random) -> None:
            while not over.is_set():
                client.read_tag(rng.choice(histories), rng.choice(READ_KINDS))

        with ThreadPoolExecutor(len(clients)) as pool:
            reading = [pool.submit(read, client, random.Random(n)) for n, client in enumerate(clients)]
            try:
                yield
            finally:
                over.set()
                wait(reading)
                for client in clients:
                    client.close()
        for each in reading:
            try:
                each.result()
            except AssertionError as error:
                error.add_note(str([line for line in self.service.lines() if line.get("status", 0) >= 500]))
                raise
        stale_reads = [stale for history in histories for stale in history.stale_reads()]
        assert stale_reads == [], stale_reads

    def check(self, *histories: TagHistory) -> None:
        """Read the tags at each process in every way. Fails the test unless each shows what the last change made."""
        for history in histories:
            for client in self.clients:
                for kind in READ_KINDS:
                    self.check_at(client, history, kind)

    @staticmethod
    def check_at(client: ProcessClient, history: TagHistory, kind: ReadKind) -> None:
        """Read a tag once. Fails the test unless it shows what the last change made of it."""
        seen, expected = str(client.read_tag(history, kind)), str(history.digest)
        assert seen == expected, f"{history.name}, {kind} at process {client.pid}"

    def check_lists(self, *histories: TagHistory) -> None:
        """Fails the test unless each process lists exactly those tags that exist."""
        for history in histories:
            for client in self.clients:
                assert client.lists(history) == (history.digest is not None), (history.name, client.pid)

    def end_lease(self, history: TagHistory) -> None:
        """Let the lease of the tag expire, as it does 30 s after its holder died."""
        repository, _, tag = history.name.rpartition(":")
        self.harness.redis.call("DEL", keys.tag_lease(repository, tag))

    def end_task_lease(self, task_id: str) -> None:
        """Let the lease of the task expire, and queue the task again as the reconciler does."""
        self.harness.redis.call("ZADD", keys.TASKS_RUNNING, 1, task_id)
        lost = ErrorReport.of(WorkerLost(task_id, LOSSES_ALLOWED))
        assert self.harness.core.recovery.expire(task_id, lost)

    def die(self, when: str, *what: object) -> None:
        """Run a process that dies before or after it commits. *what* is a tag to delete, or a task and its fence."""
        command = [sys.executable, "-m", "tests.api.dying_process", when, *map(str, what)]
        environment = {**os.environ, **self.environment}
        ended = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr


class TagWriter:
    """Changes the tags of one repository, one change at a time, in an order that the seed gives."""

    def __init__(self, mirror: FreshMirror, repository: str, *, tags: Sequence[str] = TAGS) -> None:
        self.histories = [TagHistory(f"{repository}:{tag}") for tag in tags]
        self.done: list[tuple[str, Action]] = []
        self._mirror = mirror
        self._repository = repository
        self._rng = random.Random(f"{SEED} {repository}")
        self._due: dict[str, list[Action]] = {}
        self._made = 0

    def change(self, times: int = 1, *, lists: bool = True) -> None:
        """Make so many changes, and read each at every process. *lists* are read as well if the index is built."""
        for _ in range(times):
            history = self._rng.choice(self.histories)
            action = self._choose(history)
            existed = history.digest is not None
            self.done.append((history.name, action))
            self._act(history, action)
            for client in self._mirror.clients:
                self._mirror.check_at(client, history, self._rng.choice(READ_KINDS))
            if history.digest:
                self._rng.choice(self._mirror.clients).read_digest(self._repository, history.digest)
            if lists and existed != (history.digest is not None):
                self._mirror.check_lists(history)

    def publish(self, history: TagHistory) -> None:
        """Mirror a new image by a job, from a source whose tag has moved."""
        job, digest = self.submit(history)
        with history.change(digest):
            ended = self._mirror.harness.run_tasks(job)
            assert ended.state == "succeeded", ended.error

    def submit(self, history: TagHistory) -> tuple[Job, Digest]:
        """Submit a job that mirrors a new image. Return it, and the image's digest."""
        self._made += 1
        seed = f"{self._repository} {self._made}"
        image = images.three_platforms(seed) if self._made % 4 == 0 else images.image(images.layer(seed, 200))
        self._mirror.harness.registry.put(image, *history.name.split(":"))
        return self._mirror.harness.submit(history.name, history.name), image.digest

    def put(self, history: TagHistory, digest: Digest, body: object) -> None:
        """Point the tag at a held image, by a request to either process."""
        with history.change(digest):
            answer = self._any().administer("PUT", f"/v1/images/{history.name}", body)
            assert answer.status in (200, 201), answer.body
            assert json.loads(answer.body)["superseded_by"] is None, answer.body

    def delete(self, history: TagHistory) -> None:
        with history.change(None):
            answer = self._any().administer("DELETE", f"/v1/images/{history.name}")
            assert answer.status == 204, answer.body

    def _choose(self, history: TagHistory) -> Action:
        """Choose the next action for a tag. Each comes once, in random order, before any comes again."""
        due = self._due.setdefault(history.name, [])
        if not due:
            due += self._rng.sample(ACTIONS, len(ACTIONS))
        action = due.pop()
        return action if history.digest or action == "retag" else "publish"

    def _act(self, history: TagHistory, action: Action) -> None:
        if action == "publish":
            self.publish(history)
        elif action == "delete":
            self.delete(history)
        elif action == "retag":
            digest = self._rng.choice(self._mirror.base)
            self.put(history, digest, {"from": f"{BASE}@{digest}"})
        else:
            digest = self._rng.choice(history.digests)
            self.put(history, digest, {"digest": str(digest)})

    def _any(self) -> ProcessClient:
        return self._rng.choice(self._mirror.clients)
