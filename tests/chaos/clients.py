"""The mirror's clients: a platform team that posts jobs, and nodes that pull.

Both go on whatever is killed, and record every response that no fault explains.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import urllib3

from mirror.oci.digest import Digest
from tests.api.live_service import LiveService
from tests.chaos.fault_injection import FaultLog
from tests.chaos.upstream import Upstream
from tests.e2e.fleet import FINISHED

Document = Mapping[str, Any]
_MAX_UNFINISHED: Final = 12
_SECONDS_BETWEEN_POSTS: Final = (0.3, 4.0)
_POLL: Final = 0.3
_CHUNK: Final = 2**20
_LONGEST_PAUSE: Final = 0.3
"""Seconds between two pulls of one node, at most. It shares the machine with the system under test."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """A job whose 202 was received. *posted* is the time of its POST."""

    id: str
    source: str
    posted: float


class PlatformTeam:
    """One thread that posts and watches jobs.

    `ended` has the last document of each job, and `wrong` every response that must not happen.

    A task fails after its workers were lost three times in a row without progress, and its error's hint says to retry
    the job. Enough kills do that to a task. The team then retries the job once, but only if the fault log has as many
    kills of work horses while it ran. `retried` has those jobs.
    """

    def __init__(self, api: LiveService, upstream: Upstream, faults: FaultLog, rng: random.Random) -> None:
        self.accepted: dict[str, AcceptedJob] = {}
        self.ended: dict[str, Document] = {}
        self.retried: set[str] = set()
        self.published: list[str] = []
        self.wrong: list[str] = []
        self.refused = 0
        self._api = api
        self._upstream = upstream
        self._faults = faults
        self._rng = rng
        self._lock = threading.Lock()
        self._posting = threading.Event()
        self._stopped = threading.Event()
        self._http = urllib3.PoolManager(retries=False, timeout=30)
        self._thread = threading.Thread(target=self._run, name="platform-team", daemon=True)

    def start(self) -> None:
        self._posting.set()
        self._thread.start()

    def stop_posting(self) -> None:
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
        """Post a job, and return its id if it was accepted."""
        posted = monotonic()
        document = self._request("POST", "/v1/jobs", {"source": f"{self._upstream.registry.host}/{source}"})
        if document is None:
            return None
        with self._lock:
            self.accepted[document["id"]] = AcceptedJob(document["id"], source, posted)
        return str(document["id"])

    def document(self, job_id: str) -> Document | None:
        return self._request("GET", f"/v1/jobs/{job_id}")

    def _run(self) -> None:
        due = 0.0
        while not self._stopped.wait(_POLL):
            self._watch()
            if self._posting.is_set() and monotonic() >= due and len(self.unfinished()) < _MAX_UNFINISHED:
                self.post(self._upstream.source())
                due = monotonic() + self._rng.uniform(*_SECONDS_BETWEEN_POSTS)

    def _watch(self) -> None:
        for job_id in self.unfinished():
            document = self.document(job_id)
            if document is None or document["state"] not in (*FINISHED, "canceled"):
                continue
            if job_id not in self.retried and self._faults.explains_failure(document):
                self._retry(job_id)
            else:
                self._add_ended(job_id, document)

    def _retry(self, job_id: str) -> None:
        """Retry the job.

        If Redis is down and the request fails, the next poll sends it again.
        """
        if self._request("POST", f"/v1/jobs/{job_id}/retry") is not None:
            self.retried.add(job_id)

    def _add_ended(self, job_id: str, document: Document) -> None:
        with self._lock:
            self.ended[job_id] = document
            source = self.accepted[job_id].source
            if document["state"] == "succeeded" and source not in self.published:
                self.published.append(source)

    def _request(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Document | None:
        """Return the response's document, or None for an error.

        An error is wrong unless Redis was down.
        """
        begun = monotonic()
        try:
            answer = self._http.request(method, f"{self._api.url}{path}", headers=dict(self._api.headers), json=body)
            text, status = answer.data[:500].decode(errors="replace"), answer.status
        except urllib3.exceptions.HTTPError as error:
            text, status = repr(error), 0
        if status in (200, 202):
            return dict(answer.json())
        self.refused += 1
        if status != 503 or not self._faults.was_down("redis", begun, monotonic()):
            self.wrong.append(f"{method} {path}: {status} {text}")
        return None


class Refused(Exception):
    """The mirror returned an error status."""


class Node:
    """Pulls over ``/v2``: a tag's manifest, then its config and layers.

    `wrong` lists what must not happen.

    While S3 is down a pull may fail. It never gets a 404, because published images stay, and never wrong bytes. A pull
    does not need Redis.
    """

    def __init__(self, api: LiveService, faults: FaultLog, rng: random.Random) -> None:
        self.seen: set[tuple[str, str]] = set()
        """Every tag with every digest that it had."""
        self.pulled = 0
        self.verified = 0
        self.refused = 0
        self.wrong: list[str] = []
        self._api = api
        self._faults = faults
        self._rng = rng
        self._http = urllib3.PoolManager(retries=False, timeout=60)

    def run(self, published: Callable[[], Sequence[tuple[str, str]]], stop: threading.Event) -> None:
        """Pull random images until *stop* is set.

        *published* returns repositories and tags.
        """
        while not stop.wait(self._rng.uniform(0, _LONGEST_PAUSE)):
            if known := published():
                self.pull(*self._rng.choice(known))

    def pull(self, repository: str, tag: str) -> bool:
        """Pull a whole image. Return False if a request failed."""
        begun, what = monotonic(), f"{repository}/manifests/{tag}"
        try:
            manifest, digest = self._manifest(what)
            self.seen.add((f"{repository}:{tag}", str(digest)))
            for blob in [manifest["config"], *manifest["layers"]]:
                begun, what = monotonic(), f"{repository}/blobs/{blob['digest']}"
                self._blob(what, blob["digest"], blob["size"])
        except Refused as error:
            self.refused += 1
            if not self._faults.was_down("s3", begun, monotonic()):
                self.wrong.append(f"{what}: refused while S3 was up: {error}")
            return False
        except urllib3.exceptions.HTTPError as error:
            self.refused += 1
            if not self._faults.was_down("s3", begun, monotonic()):
                self.wrong.append(f"{what}: broke off while S3 was up: {error!r}")
            return False
        self.pulled += 1
        return True

    def _manifest(self, what: str) -> tuple[dict[str, Any], Digest]:
        answer = self._open(what)
        body = answer.read()
        digest = Digest.of(body)
        if str(digest) != answer.headers["Docker-Content-Digest"]:
            self.wrong.append(f"{what}: the bytes of {answer.headers['Docker-Content-Digest']} are {digest}")
        self.verified += 1
        return json.loads(body), digest

    def _blob(self, what: str, digest: str, size: int) -> None:
        answer, hasher, received = self._open(what), hashlib.sha256(), 0
        for chunk in answer.stream(_CHUNK):
            hasher.update(chunk)
            received += len(chunk)
        if (f"sha256:{hasher.hexdigest()}", received) != (digest, size):
            self.wrong.append(f"{what}: {received} of {size} bytes, sha256:{hasher.hexdigest()}")
        self.verified += 1

    def _open(self, what: str) -> urllib3.BaseHTTPResponse:
        answer = self._http.request("GET", f"{self._api.url}/v2/{what}", preload_content=False)
        if answer.status == 200:
            return answer
        text = answer.read()[:500].decode(errors="replace")
        if answer.status < 500:
            self.wrong.append(f"{what}: {answer.status} {text}")
        raise Refused(f"{answer.status} {text}")
