"""Nodes that go on pulling what is published, and believe no byte."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import urllib3

from mirror.oci.digest import Digest
from tests.api.live_service import LiveService
from tests.chaos.outages import Outages

_CHUNK: Final = 2**20
_PAUSE: Final = 0.3
"""The most seconds between two pulls of one node: they share the machine with what they test."""


class Refused(Exception):
    """An answer that was none: an error status, a cut connection."""


class Reader:
    """Pulls over ``/v2``: a tag's manifest, then its config and layers. `wrong` lists what must not happen.

    An answer is refused while S3 is away; at no time is it a 404, for what was published stays, nor other bytes than
    those asked for. Redis is nothing that a pull needs.
    """

    def __init__(self, api: LiveService, outages: Outages, rng: random.Random) -> None:
        self.seen: set[tuple[str, str]] = set()
        """Every tag with every digest that it showed."""
        self.pulled = 0
        self.verified = 0
        self.refused = 0
        self.wrong: list[str] = []
        self._api = api
        self._outages = outages
        self._rng = rng
        self._http = urllib3.PoolManager(retries=False, timeout=60)

    def work(self, published: Callable[[], Sequence[tuple[str, str]]], stop: threading.Event) -> None:
        """Pull until told to stop; *published* says what, as repository and tag."""
        while not stop.wait(self._rng.uniform(0, _PAUSE)):
            if known := published():
                self.pull(*self._rng.choice(known))

    def pull(self, repository: str, tag: str) -> bool:
        """Pull an image whole; False if an answer was refused."""
        begun, what = monotonic(), f"{repository}/manifests/{tag}"
        try:
            manifest, digest = self._manifest(what)
            self.seen.add((f"{repository}:{tag}", str(digest)))
            for blob in [manifest["config"], *manifest["layers"]]:
                begun, what = monotonic(), f"{repository}/blobs/{blob['digest']}"
                self._blob(what, blob["digest"], blob["size"])
        except Refused as error:
            self.refused += 1
            if not self._outages.excuse("s3", begun, monotonic()):
                self.wrong.append(f"{what}: refused while S3 was there: {error}")
            return False
        except urllib3.exceptions.HTTPError as error:
            self.refused += 1
            if not self._outages.excuse("s3", begun, monotonic()):
                self.wrong.append(f"{what}: broke off while S3 was there: {error!r}")
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
        answer, hasher, seen = self._open(what), hashlib.sha256(), 0
        for chunk in answer.stream(_CHUNK):
            hasher.update(chunk)
            seen += len(chunk)
        if (f"sha256:{hasher.hexdigest()}", seen) != (digest, size):
            self.wrong.append(f"{what}: {seen} of {size} bytes, sha256:{hasher.hexdigest()}")
        self.verified += 1

    def _open(self, what: str) -> urllib3.BaseHTTPResponse:
        answer = self._http.request("GET", f"{self._api.url}/v2/{what}", preload_content=False)
        if answer.status == 200:
            return answer
        said = answer.read()[:500].decode(errors="replace")
        if answer.status < 500:
            self.wrong.append(f"{what}: {answer.status} {said}")
        raise Refused(f"{answer.status} {said}")
