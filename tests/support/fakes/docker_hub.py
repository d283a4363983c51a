"""Docker Hub's token flow and its pull limit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

from tests.support.fakes.server import Reply, Request


def basic(login: tuple[str, str]) -> str:
    """Return the Authorization header of a user and password."""
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()


@dataclass
class Tokens:
    """A token server and the tokens that it has issued.

    *login* is the user and password that it accepts. With *anonymous*, or without a *login*, a request without a login
    gets a token too. *identity* is an identity token (OAuth2 refresh token) that it exchanges. *realm* is the token
    server that the registry names, if not this one.
    """

    login: tuple[str, str] | None = None
    anonymous: bool = False
    identity: str | None = None
    expires_in: int | None = 300
    field_name: str = "token"
    service: str = "registry.test"
    realm: str | None = None
    issued: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def revoke(self) -> None:
        """Refuse every token that was issued so far."""
        with self._lock:
            self.issued = dict.fromkeys(self.issued, "")

    def accepts(self, authorization: str, scope: str) -> bool:
        return self.issued.get(authorization.removeprefix("Bearer ")) == scope

    def challenge(self, realm: str, scope: str) -> str:
        return f'Bearer realm="{self.realm or realm}",service="{self.service}",scope="{scope}"'

    def reply_to(self, request: Request) -> Reply:
        """Return the token server's reply."""
        parameters = parse_qs(request.body.decode()) if request.method == "POST" else request.query
        if not self._knows(request, parameters):
            return Reply(401, body=b'{"details": "incorrect username or password"}')
        scope = (parameters.get("scope") or [""])[0]
        with self._lock:
            token = f"token-{len(self.issued)}-{scope}"
            self.issued[token] = scope
        answer: dict[str, Any] = {self.field_name: token}
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _knows(self, request: Request, parameters: dict[str, list[str]]) -> bool:
        if request.method == "POST":
            return self.identity is not None and parameters.get("refresh_token") == [self.identity]
        given = request.headers.get("Authorization")
        if given is None:
            return self.anonymous or self.login is None
        return self.login is None or given == basic(self.login)


REFUSAL = json.dumps(
    {
        "errors": [
            {
                "code": "TOOMANYREQUESTS",
                "message": "You have reached your pull rate limit. You may increase the limit by authenticating and "
                "upgrading: https://www.docker.com/increase-rate-limit",
            }
        ]
    }
).encode()


class PullLimit:
    """A script that allows *limit* manifest GETs in *window* seconds.

    It is for `FakeRegistry.script`. A HEAD costs nothing.

    A window starts with the first read after the last window has ended. *clock* returns the time, so that a test can
    end a window.
    """

    def __init__(self, limit: int, *, window: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = limit
        self.window = window
        self.refused = 0
        self.windows = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._used = 0
        self._ends = 0.0

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if "/manifests/" not in request.path or reply.status == 401:
            return None
        with self._lock:
            allowed = self._count(request)
            left = self.limit - self._used
        headers = {
            "ratelimit-limit": f"{self.limit};w={self.window}",
            "ratelimit-remaining": f"{left};w={self.window}",
            "docker-ratelimit-source": "192.0.2.7",
        }
        if not allowed:
            return Reply(429, {**headers, "Content-Type": "application/json"}, REFUSAL)
        return Reply(reply.status, {**reply.headers, **headers}, reply.body)

    @property
    def used(self) -> int:
        """Return the number of reads in the current window."""
        return self._used

    def _count(self, request: Request) -> bool:
        now = self._clock()
        if now >= self._ends:
            self._used = 0
        if request.method == "HEAD":
            return True
        if self._used == 0:
            self._ends = now + self.window
            self.windows += 1
        if self._used == self.limit:
            self.refused += 1
            return False
        self._used += 1
        return True
