"""Clients that know which process of a service serves them, and read tags in every way that a node does."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, Self

from mirror.oci.digest import Digest
from tests.api.live_service import LiveService
from tests.support.tag_history import TagHistory, TagRead

ReadKind = Literal["GET", "HEAD", "conditional GET"]
READ_KINDS: Final[tuple[ReadKind, ...]] = ("GET", "HEAD", "conditional GET")
_TIMEOUT: Final = 20.0
_MOST_CONNECTIONS: Final = 500
"""Connections until each process has served one. The kernel gives each of them to either process."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with its whole body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error under ``/v2``."""
        return str(json.loads(self.body)["errors"][0]["code"])


@dataclass(slots=True)
class ProcessClient:
    """One kept connection to the process *pid* of *service*. One thread at a time uses it."""

    service: LiveService
    pid: int
    connection: http.client.HTTPConnection
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of_each(cls, service: LiveService) -> list[Self]:
        """Return a client of each process of *service*, in the order of their ids."""
        processes = serving_processes(service)
        found: dict[int, Self] = {}
        for _ in range(_MOST_CONNECTIONS):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=_TIMEOUT)
            client = cls(service, 0, connection)
            assert client.ask("GET", "/livez").status == 200
            client.pid = _process_of(connection, processes)
            if found.setdefault(client.pid, client) is not client:
                client.close()
            if found.keys() == set(processes):
                return [found[pid] for pid in processes]
        raise AssertionError(f"{_MOST_CONNECTIONS} connections reached only the processes {sorted(found)}")

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, body: object = None) -> Answer:
        """Send one request over the kept connection. *body* is sent as JSON."""
        given = {"Content-Type": "application/json"} if body is not None else {}
        content = None if body is None else json.dumps(body)
        with self.lock:
            self.connection.request(method, path, content, {**given, **(headers or {})})
            response = self.connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def administer(self, method: str, path: str, body: object = None) -> Answer:
        """Send one request with the admin token."""
        return self.ask(method, path, self.service.headers, body)

    def read_tag(self, history: TagHistory, kind: ReadKind) -> Digest | None:
        """Read the tag, and add that to its history. Fails the test for anything but an image or its absence."""
        repository, _, tag = history.name.rpartition(":")
        known = {"If-None-Match": f'"{history.digest}"'} if kind == "conditional GET" and history.digest else {}
        begun = monotonic()
        answer = self.ask("HEAD" if kind == "HEAD" else "GET", f"/v2/{repository}/manifests/{tag}", known)
        ended = monotonic()
        digest = _digest_of(answer, kind)
        history.add_read(TagRead(digest, begun, ended, f"{kind} at process {self.pid}"))
        return digest

    def read_digest(self, repository: str, digest: Digest) -> None:
        """Read a manifest by its digest. Fails the test if it is not there."""
        answer = self.ask("GET", f"/v2/{repository}/manifests/{digest}")
        assert (answer.status, Digest.of(answer.body)) == (200, digest)

    def lists(self, history: TagHistory) -> bool:
        """Return whether the list of the repository's tags has the tag."""
        repository, _, tag = history.name.rpartition(":")
        answer = self.ask("GET", f"/v2/{repository}/tags/list")
        if answer.status == 404:
            return False
        assert answer.status == 200, answer.body
        tags: list[Any] = json.loads(answer.body)["tags"]
        return tag in tags

    def close(self) -> None:
        self.connection.close()


def serving_processes(service: LiveService) -> list[int]:
    """Return the ids of the processes that serve requests: the children of gunicorn's arbiter."""
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text()
    return sorted(int(pid) for pid in children.split())


def _digest_of(answer: Answer, kind: ReadKind) -> Digest | None:
    if answer.status == 404:
        assert kind == "HEAD" or answer.code == "MANIFEST_UNKNOWN", answer.body
        return None
    allowed = (200, 304) if kind == "conditional GET" else (200,)
    assert answer.status in allowed, (kind, answer.status, answer.body)
    digest = Digest.parse(answer.headers["Docker-Content-Digest"])
    assert answer.headers["ETag"] == f'"{digest}"'
    if answer.status == 200 and kind != "HEAD":
        assert Digest.of(answer.body) == digest
    return digest


def _process_of(connection: http.client.HTTPConnection, processes: Iterable[int]) -> int:
    """Return the process that holds the other end of the connection (proc(5), /proc/net/tcp).

    While other connections come and go, the kernel may show a row of that file twice. A closed connection that had the
    same ports has the inode 0.
    """
    assert connection.sock is not None
    client, server = (f":{name[1]:04X}" for name in (connection.sock.getsockname(), connection.sock.getpeername()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    [inode] = {row[9] for row in rows if row[1].endswith(server) and row[2].endswith(client)} - {"0"}
    for pid in processes:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                if str(file.readlink()) == f"socket:[{inode}]":
                    return pid
    raise AssertionError(f"no process holds the socket {inode}")
