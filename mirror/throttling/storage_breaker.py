"""A circuit breaker for the bucket, shared by all workers.

While S3 takes no writes, no source is read for it.

- closed: all tasks write. The first write that fails opens it.
- open: no task begins to write for 5 s. Each trial that fails doubles that time, up to 60 s.
- half-open: one task writes as a trial. Its success closes the breaker, its failure opens it.

Without it every task that waits for a full disk would read its image again and again, to find that there is still no
space. It shares no code with `CircuitBreaker`: here the first failure opens it, and the trial belongs to a task that
holds it over many requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import uniform
from typing import Final

from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

OPEN_SECONDS: Final = 5.0
LONGEST_OPEN: Final = 60.0
TRIAL_SECONDS: Final = 15.0


def _load(file: str) -> str:
    constants = {
        "OPEN_SECONDS": OPEN_SECONDS,
        "LONGEST_OPEN": LONGEST_OPEN,
        "TRIAL_SECONDS": TRIAL_SECONDS,
        "RECORD_SECONDS": 3600,
    }
    return load_script("mirror.throttling", file, constants=constants)


_PERMIT: Final = _load("storage_permit.lua")
_FAILED: Final = _load("storage_failed.lua")
_SUCCEEDED: Final = _load("storage_succeeded.lua")


@dataclass(frozen=True, slots=True)
class StorageTrouble:
    """The last failed write: its error's code, action and reason.

    ``size`` is the largest failed write in bytes.
    """

    code: str
    action: str
    reason: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class WritePermit:
    """Whether a task may write.

    ``wait`` is None if it may, else the seconds until it should ask again.
    """

    wait: float | None = None
    is_trial: bool = False


class StorageBreaker:
    """The circuit breaker of the bucket.

    Every method raises RedisUnavailable. Safe to share between threads.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._permit = redis.script(_PERMIT)
        self._failed = redis.script(_FAILED)
        self._succeeded = redis.script(_SUCCEEDED)

    def admit(self, token: str) -> WritePermit:
        """Decide whether the task with this token may begin to write.

        While the breaker is open, one task may.
        """
        decision, wait = self._permit([keys.STORAGE_TROUBLE], [token])
        return WritePermit(wait / 1000 if decision == 0 else None, decision == 2)

    def failed(self, token: str, trouble: StorageTrouble) -> float:
        """Open the breaker. Return the seconds until the next trial."""
        jitter = uniform(0.9, 1.1)  # noqa: S311 - spreads trials, guards nothing
        args: list[str | float] = [token, trouble.size, trouble.code, trouble.action, trouble.reason, jitter]
        return float(self._failed([keys.STORAGE_TROUBLE], args)) / 1000

    def succeeded(self, token: str) -> None:
        """Close the breaker if the trial belongs to the task with this token."""
        self._succeeded([keys.STORAGE_TROUBLE], [token])

    def trouble(self) -> StorageTrouble | None:
        """Return what opened the breaker, None while it is closed. Writes nothing."""
        found = self._redis.call("HGETALL", keys.STORAGE_TROUBLE)
        if not found:
            return None
        return StorageTrouble(found["code"], found["action"], found["reason"], int(found["size"]))
