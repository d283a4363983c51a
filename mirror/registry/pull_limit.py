"""Pull limits, as Docker Hub tells them on manifest reads: ``ratelimit-limit: 100;w=21600``, ``ratelimit-remaining``.

HEADs cost nothing and tell as much. Absent headers mean that there is no limit; no number is known beforehand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final, Self

from mirror.errors import MirrorError, QuotaExhausted
from mirror.http.transport import Answer
from mirror.oci.reference import Reference
from mirror.registry.response_errors import DEFAULT_WAIT, asked_wait, window_seconds
from mirror.registry.throttle import Account, PullLimits

_TOLD: Final = re.compile(r"([0-9]{1,9})(?:\s*;\s*w=([0-9]{1,19}))?", re.ASCII)
_REFUSAL_SIZE: Final = 64 * 1024
_NO_EGRESS: Final = "-"


@dataclass(frozen=True, slots=True)
class PullLimit:
    """*remaining* of *limit* manifest reads within *window* seconds, for all who come from *egress*."""

    limit: int
    window: float
    remaining: int
    egress: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """None where there is no limit, or it is not told in a way that can be understood."""
        limit = _TOLD.fullmatch(headers.get("ratelimit-limit", "").strip())
        remaining = _TOLD.fullmatch(headers.get("ratelimit-remaining", "").strip())
        window = (limit and limit[2]) or (remaining and remaining[2])
        if not limit or not remaining or not window or not int(limit[1]) or not int(window):
            return None
        source = headers.get("docker-ratelimit-source", "")
        return cls(int(limit[1]), window_seconds(window), int(remaining[1]), hashed(source) if source else _NO_EGRESS)


class LimitReader:
    """Passes on what a client's answers tell, and knows whose limit the next request counts for.

    *login* gives the user of a registry's repository, None for anonymous. Safe to share between threads.
    """

    def __init__(self, limits: PullLimits, login: Callable[[str, str], str | None]) -> None:
        self._limits = limits
        self._login = login
        self._accounts: dict[tuple[str, str], Account | None] = {}

    def has_heard(self, reference: Reference) -> bool:
        """Whether any answer has shown the account, or that there is no limit."""
        return self._payer(reference) in self._accounts

    def account(self, reference: Reference) -> Account | None:
        """Whose limit a read counts for, as far as answers have shown; None where no limit is known."""
        return self._accounts.get(self._payer(reference))

    def heard(self, reference: Reference, answer: Answer, begun: float, unit: str | None = None) -> None:
        """An answer to a manifest request that was begun at *begun* (monotonic), with *unit* reserved for it."""
        told = PullLimit.of(answer.headers)
        payer = self._payer(reference)
        if told is None:
            self._heard_nothing(payer, unit, spent=answer.status == 200)
            return
        account = (*payer, told.egress)
        self._accounts[payer] = account
        self._limits.tell(
            account,
            limit=told.limit,
            window=told.window,
            remaining=told.remaining,
            elapsed=monotonic() - begun,
            unit=unit,
        )

    def _heard_nothing(self, payer: tuple[str, str], unit: str | None, *, spent: bool) -> None:
        account = self._accounts.setdefault(payer, None) if spent else self._accounts.get(payer)
        if account and unit and spent:
            self._limits.spend(account, unit)
        elif account and unit:
            self._limits.give_back(account, [unit])

    def refusal(self, reference: Reference, answer: Answer) -> QuotaExhausted | None:
        """The error for a 429 of the pull limit, whose long body says so; None for the plain one against abuse."""
        told = PullLimit.of(answer.headers)
        if not (told and told.remaining == 0) and b"pull rate limit" not in _body(answer).lower():
            return None
        account = self.account(reference)
        wait = self._limits.used_up(account) if account else None
        if wait is None:
            wait = asked_wait(answer.headers) or DEFAULT_WAIT
        return QuotaExhausted(reference.registry, wait)

    def _payer(self, reference: Reference) -> tuple[str, str]:
        user = self._login(reference.registry, reference.repository)
        return reference.registry, hashed(user) if user else "anonymous"


def hashed(text: str) -> str:
    """Enough of a SHA-256 to tell users and addresses apart without naming them."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _body(answer: Answer) -> bytes:
    try:
        return answer.read_at_once(_REFUSAL_SIZE, "a refusal")
    except MirrorError:
        return b""
