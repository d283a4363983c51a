"""Check that the bucket accepts writes before a source is read for a task that storage has failed."""

from __future__ import annotations

from typing import Final

import structlog

from mirror.errors import StorageFull, StorageUnavailable
from mirror.records.claims import Claim
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.storage.bucket import Bucket
from mirror.throttling.storage_breaker import StorageBreaker, StorageTrouble

LARGEST_PROBE: Final = 16 * 2**20
"""Bytes: the size of a part, which is the largest write of most images."""
ROOM_SECONDS: Final = 15.0
"""Seconds that a task waits if its image does not fit on a disk that this process can look at."""
_NEEDED_SECONDS: Final = 24 * 3600
_LOG = structlog.get_logger(__name__)


class StorageGuard:
    """The circuit breaker of the bucket, the probe that closes it, and what each task needs of a local disk.

    Every method raises RedisUnavailable.
    """

    def __init__(self, bucket: Bucket, redis: Redis, breaker: StorageBreaker) -> None:
        self._bucket = bucket
        self._redis = redis
        self._breaker = breaker

    def require(self, claim: Claim) -> bool:
        """Return whether the task is the trial. A trial that has written calls `succeeded`.

        Raises StorageFull or StorageUnavailable while the bucket is known to accept no writes. One task at a time
        probes that with a write as large as the one that failed.
        """
        if self._bucket.disk.is_known and (needed := self._redis.call("GET", keys.task_needs(claim.task.id))):
            self._bucket.disk.require_room(int(needed))
        permit = self._breaker.admit(claim.token)
        if permit.wait is None and not permit.is_trial:
            return False
        trouble = self._breaker.trouble()
        if trouble is None:
            return False
        if permit.wait is not None:
            raise _as_error(trouble)
        self._bucket.probe(min(trouble.size, LARGEST_PROBE))
        if trouble.code != StorageFull.code or self._bucket.disk.is_known:
            self.succeeded(claim)  # S3 works again, and of a local disk each task knows what it needs
        return True

    def failed(self, claim: Claim, error: StorageUnavailable, missing: int) -> None:
        """Note the failure of a task whose image needs *missing* bytes more. Sets the error's ``retry_after``.

        Too little room for one image does not delay other images. Only a failed write opens the breaker.
        """
        if self._bucket.disk.is_known and error.code == StorageFull.code:
            needed = missing if error.size or error.needed is None else error.needed
            self._redis.call("SET", keys.task_needs(claim.task.id), needed, "EX", _NEEDED_SECONDS)
        if error.needed is not None:
            error.retry_after = ROOM_SECONDS
        else:
            trouble = StorageTrouble(error.code, error.action, error.reason, error.size)
            error.retry_after = self._breaker.failed(claim.token, trouble)

    def succeeded(self, claim: Claim) -> None:
        """Close the breaker: the trial has written."""
        self._breaker.succeeded(claim.token)
        _LOG.info("the bucket accepts writes again")


def _as_error(trouble: StorageTrouble) -> StorageUnavailable:
    kind = StorageFull if trouble.code == StorageFull.code else StorageUnavailable
    return kind(trouble.action, trouble.reason)
