"""Errors of the two stores: the S3 bucket and Redis."""

from __future__ import annotations

from typing import ClassVar

from mirror.errors.base import Unavailable


class StorageUnavailable(Unavailable):
    """S3 does not respond, or fails. *action* continues the sentence "The bucket could not …"."""

    code = "STORAGE_UNAVAILABLE"
    waits_for = "storage_unavailable"
    hint = "Check the S3 endpoint, its bucket and the credentials. GET /readyz?verbose shows whether S3 responds."
    size = 0
    """Bytes of the write that failed, 0 for any other request."""
    needed: int | None = None
    """Bytes that do not fit into the bucket, if that is known."""
    _MESSAGE: ClassVar = "The bucket could not {action}: {reason}"

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(self._MESSAGE.format(action=action, reason=reason), reason=reason)
        self.action = action


class StorageFull(StorageUnavailable):
    """S3 has no space: its disk is full, or a quota is used up."""

    code = "STORAGE_FULL"
    waits_for = "storage_full"
    hint = "Free space on the disk of S3, or raise its quota. Jobs then continue by themselves. Pulls work meanwhile."
    _MESSAGE: ClassVar = "The bucket cannot write: {reason} (it could not {action})"


class StorageRefused(Unavailable):
    """S3 refused the request (credentials, missing bucket, quota). Waiting alone does not help."""

    code, retryable = "STORAGE_REFUSED", False
    http_retry_after = None
    hint = "Check the S3 credentials, the bucket's name, its policy and its quota."

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"The bucket refused to {action}: {reason}", reason=reason)


class StorageDamaged(Unavailable):
    """An object in the bucket is not what the mirror wrote."""

    code, retryable = "STORAGE_DAMAGED", False
    status = 500
    http_retry_after = None
    hint = "Another program wrote to the bucket. Restore the object, or delete the image and mirror it again."

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The object '{key}' in the bucket is damaged: {reason}", reason=reason)


class RedisUnavailable(Unavailable):
    """Redis does not respond, or refuses commands. *reason* ends the sentence "Redis, which keeps the jobs, …"."""

    code = "REDIS_UNAVAILABLE"
    hint = "Check that Redis runs and that MIRROR_REDIS_URL is correct. GET /readyz?verbose shows whether it responds."

    def __init__(self, reason: str = "does not answer", *, hint: str | None = None) -> None:
        super().__init__(f"Redis, which keeps the jobs, {reason}", hint=hint, reason=reason)
