"""Pull limits, as Docker Hub states them in ``ratelimit-…`` headers.

A HEAD costs nothing and states the same. Without the headers there is no limit. No number is assumed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

from mirror.errors import MirrorError, QuotaExhausted
from mirror.http.response import Response
from mirror.oci.reference import Reference
from mirror.registry.auth import Authenticator
from mirror.registry.response_errors import DEFAULT_WAIT, asked_wait, window_seconds
from mirror.registry.throttle import Account, QuotaLedger
from mirror.registry.token_server import Scope

_LIMIT: Final = re.compile(r"([0-9]{1,9})(?:\s*;\s*w=([0-9]{1,19}))?", re.ASCII)
_REFUSAL_SIZE: Final = 64 * 1024
_NO_EGRESS: Final = "-"


@dataclass(frozen=True, slots=True)
class PullLimit:
    """*remaining* of *limit* manifest reads within *window* seconds.

    All clients with the address *egress*, a hash, share them.
    """

    limit: int
    window: float
    remaining: int
    egress: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Parse the headers of a response.

        None if they state no limit, or not in a known form.
        """
        limit = _LIMIT.fullmatch(headers.get("ratelimit-limit", "").strip())
        remaining = _LIMIT.fullmatch(headers.get("ratelimit-remaining", "").strip())
        window = (limit and limit[2]) or (remaining and remaining[2])
        if not limit or not remaining or not window or not int(limit[1]) or not int(window):
            return None
        source = headers.get("docker-ratelimit-source", "")
        return cls(int(limit[1]), window_seconds(window), int(remaining[1]), _hash(source) if source else _NO_EGRESS)


class PullAccounts:
    """Which account a manifest read counts for, as responses have shown.

    Reports those responses to the quota ledger. Safe to share between threads.
    """

    def __init__(self, quota: QuotaLedger, auth: Authenticator) -> None:
        self._quota = quota
        self._auth = auth
        self._accounts: dict[tuple[str, str], Account | None] = {}

    def username(self, reference: Reference) -> str | None:
        """Return the user that reads the repository, None for anonymous."""
        return self._auth.username(Scope(reference.registry, reference.repository))

    def is_known(self, reference: Reference) -> bool:
        """Whether a response has shown the account, or that there is no limit."""
        return self._payer(reference) in self._accounts

    def account(self, reference: Reference) -> Account | None:
        """Return the account that a read counts for. None if no limit is known."""
        return self._accounts.get(self._payer(reference))

    def record(self, reference: Reference, response: Response, started: float, unit: str | None = None) -> None:
        """Record a response to a manifest request.

        Its request was started at *started* (monotonic), with *unit* reserved for it.
        """
        limit = PullLimit.of(response.headers)
        payer = self._payer(reference)
        if limit is None:
            self._record_no_limit(payer, unit, spent=response.status == 200)
            return
        account = (*payer, limit.egress)
        self._accounts[payer] = account
        self._quota.tell(
            account,
            limit=limit.limit,
            window=limit.window,
            remaining=limit.remaining,
            elapsed=monotonic() - started,
            unit=unit,
        )

    def quota_error(self, reference: Reference, response: Response) -> QuotaExhausted | None:
        """Return the error for a 429 of the pull limit, whose long body says so.

        None for the 429 against abuse.
        """
        limit = PullLimit.of(response.headers)
        if not (limit and limit.remaining == 0) and b"pull rate limit" not in _body(response).lower():
            return None
        account = self.account(reference)
        wait = self._quota.used_up(account) if account else None
        if wait is None:
            wait = asked_wait(response.headers) or DEFAULT_WAIT
        return QuotaExhausted(reference.registry, wait)

    def _record_no_limit(self, payer: tuple[str, str], unit: str | None, *, spent: bool) -> None:
        account = self._accounts.setdefault(payer, None) if spent else self._accounts.get(payer)
        if account and unit and spent:
            self._quota.spend(account, unit)
        elif account and unit:
            self._quota.give_back(account, [unit])

    def _payer(self, reference: Reference) -> tuple[str, str]:
        user = self.username(reference)
        return reference.registry, _hash(user) if user else "anonymous"


def _hash(text: str) -> str:
    """Return part of a SHA-256. It distinguishes users and addresses, and names none."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _body(response: Response) -> bytes:
    try:
        return response.read_quickly(_REFUSAL_SIZE, "a refusal")
    except MirrorError:
        return b""
