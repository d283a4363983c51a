"""A platform team that goes on posting jobs and watching them, whatever happens to the mirror."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import urllib3

from tests.api.live_service import LiveService
from tests.chaos.outages import Outages
from tests.chaos.strikes import Strikes
from tests.chaos.upstream import Upstream
from tests.e2e.fleet import FINISHED

Document = Mapping[str, Any]
_UNFINISHED_AT_MOST: Final = 12
_BETWEEN: Final = (0.3, 4.0)
"""Seconds between two posts."""
_LOOK_AGAIN: Final = 0.3


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job whose 202 was received; it was asked for at *asked*."""

    id: str
    source: str
    asked: float


class PlatformTeam:
    """One thread that posts and watches. `ended` has the last document of each job, `wrong` what must not happen.

    A task whose workers are lost three times in a row before it gets any further is given up, and its job's error says
    to ask for a retry. Enough kills strike one task that often. The team does then as it is told, once for a job, and
    only where that many horses were killed on purpose meanwhile; `retried` has those jobs.
    """

    def __init__(
        self, api: LiveService, upstream: Upstream, outages: Outages, strikes: Strikes, rng: random.Random
    ) -> None:
        self.accepted: dict[str, Accepted] = {}
        self.ended: dict[str, Document] = {}
        self.retried: set[str] = set()
        self.published: list[str] = []
        self.wrong: list[str] = []
        self.refused = 0
        self._api = api
        self._upstream = upstream
        self._outages = outages
        self._strikes = strikes
        self._rng = rng
        self._lock = threading.Lock()
        self._posting = threading.Event()
        self._stopped = threading.Event()
        self._http = urllib3.PoolManager(retries=False, timeout=30)
        self._thread = threading.Thread(target=self._work, name="platform-team", daemon=True)

    def start(self) -> None:
        self._posting.set()
        self._thread.start()

    def post_no_more(self) -> None:
        self._posting.clear()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def has_seen_all_end(self) -> bool:
        with self._lock:
            return len(self.ended) == len(self.accepted)

    def unfinished(self) -> list[str]:
        with self._lock:
            return [job_id for job_id in self.accepted if job_id not in self.ended]

    def post(self, source: str) -> str | None:
        """Ask for an image; the job's id if it was accepted."""
        asked = monotonic()
        posted = self._ask("POST", "/v1/jobs", {"source": f"{self._upstream.registry.host}/{source}"})
        if posted is None:
            return None
        with self._lock:
            self.accepted[posted["id"]] = Accepted(posted["id"], source, asked)
        return str(posted["id"])

    def document(self, job_id: str) -> Document | None:
        return self._ask("GET", f"/v1/jobs/{job_id}")

    def _work(self) -> None:
        due = 0.0
        while not self._stopped.wait(_LOOK_AGAIN):
            self._watch()
            if self._posting.is_set() and monotonic() >= due and len(self.unfinished()) < _UNFINISHED_AT_MOST:
                self.post(self._upstream.source())
                due = monotonic() + self._rng.uniform(*_BETWEEN)

    def _watch(self) -> None:
        for job_id in self.unfinished():
            document = self.document(job_id)
            if document is None or document["state"] not in (*FINISHED, "canceled"):
                continue
            if job_id not in self.retried and self._strikes.explain(document):
                self._retry(job_id)
            else:
                self._note_end(job_id, document)

    def _retry(self, job_id: str) -> None:
        """What is refused while Redis is away is asked for again at the next look."""
        if self._ask("POST", f"/v1/jobs/{job_id}/retry") is not None:
            self.retried.add(job_id)

    def _note_end(self, job_id: str, document: Document) -> None:
        with self._lock:
            self.ended[job_id] = document
            source = self.accepted[job_id].source
            if document["state"] == "succeeded" and source not in self.published:
                self.published.append(source)

    def _ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Document | None:
        """The answer; None for a refusal, which is wrong unless Redis was away."""
        begun = monotonic()
        try:
            answer = self._http.request(method, f"{self._api.url}{path}", headers=dict(self._api.headers), json=body)
            said, status = answer.data[:500].decode(errors="replace"), answer.status
        except urllib3.exceptions.HTTPError as error:
            said, status = repr(error), 0
        if status in (200, 202):
            return dict(answer.json())
        self.refused += 1
        if status != 503 or not self._outages.excuse("redis", begun, monotonic()):
            self.wrong.append(f"{method} {path}: {status} {said}")
        return None
