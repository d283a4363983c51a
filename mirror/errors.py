"""Every error a user can meet, in one tree.

    MirrorError
    ├── InvalidInput            what was asked for can never work (HTTP 422)
    │   ├── InvalidReference        NAME_INVALID
    │   ├── InvalidTag              TAG_INVALID
    │   ├── InvalidDigest           DIGEST_INVALID
    │   ├── NameTooLong             NAME_TOO_LONG
    │   ├── TargetReserved          TARGET_RESERVED
    │   └── TargetRepeated          TARGET_REPEATED
    ├── SourceError             the registry that was asked, or what it answered
    │   ├── SourceUnreachable       SOURCE_UNREACHABLE
    │   ├── RegistryDown            SOURCE_UNREACHABLE
    │   ├── RegistryFailing         SOURCE_FAILED
    │   ├── RegistryBusy            REGISTRY_BUSY
    │   ├── SourceFailed            SOURCE_FAILED
    │   │   ├── PlainHttpNotAllowed     PLAIN_HTTP_NOT_ALLOWED
    │   │   └── TlsExpected             TLS_EXPECTED
    │   ├── CertificateInvalid      CERTIFICATE_INVALID
    │   ├── SourceTooSlow           SOURCE_FAILED
    │   ├── AddressNotAllowed       ADDRESS_NOT_ALLOWED
    │   ├── RealmNotAllowed         REALM_NOT_ALLOWED
    │   ├── CredentialsUnavailable  CREDENTIALS_UNAVAILABLE
    │   ├── Unauthorized            UNAUTHORIZED
    │   ├── Denied                  DENIED
    │   ├── RateLimited             TOOMANYREQUESTS
    │   ├── QuotaExhausted          TOOMANYREQUESTS
    │   ├── ManifestUnknown         MANIFEST_UNKNOWN
    │   ├── BlobUnknown             BLOB_UNKNOWN
    │   ├── AnswerTruncated         ANSWER_TRUNCATED
    │   └── AnswerTooLarge          ANSWER_TOO_LARGE
    ├── ContentError            the bytes are not what they are said to be
    │   ├── ManifestInvalid         MANIFEST_INVALID
    │   ├── MediaTypeUnsupported    MEDIA_TYPE_UNSUPPORTED
    │   ├── DigestMismatch          DIGEST_MISMATCH
    │   └── SizeInvalid             SIZE_INVALID
    ├── NotHeld                 the mirror does not have it (HTTP 404)
    │   ├── RepositoryNotHeld       NAME_UNKNOWN
    │   ├── ImageNotHeld            MANIFEST_UNKNOWN
    │   ├── BlobNotHeld             BLOB_UNKNOWN
    │   ├── JobUnknown              JOB_UNKNOWN
    │   └── TaskUnknown             TASK_UNKNOWN
    ├── Conflict                something else holds the place
    │   ├── JobFinished             JOB_FINISHED
    │   ├── JobUnfinished           JOB_UNFINISHED
    │   ├── JobSucceeded            JOB_SUCCEEDED
    │   ├── PreconditionFailed      PRECONDITION_FAILED
    │   ├── ManifestInUse           MANIFEST_IN_USE
    │   ├── TagBusy                 TAG_BUSY
    │   ├── BlobBusy                BLOB_BUSY
    │   └── BlobBeingDeleted        BLOB_BEING_DELETED
    ├── Unavailable             a part of the mirror itself is away (HTTP 503)
    │   ├── MemoryBusy              MEMORY_BUSY
    │   ├── StorageUnavailable      STORAGE_UNAVAILABLE
    │   │   └── StorageFull             STORAGE_FULL
    │   ├── StorageRefused          STORAGE_REFUSED
    │   ├── StorageDamaged          STORAGE_DAMAGED
    │   ├── RedisUnavailable        REDIS_UNAVAILABLE
    │   └── CatalogRebuilding       CATALOG_REBUILDING
    ├── WorkerLost                  WORKER_LOST
    └── InternalError               INTERNAL_ERROR

``code`` is stable and scripts may rely on it; it is the OCI distribution spec's code where one exists.
``retryable`` says whether the same request can succeed later without anybody changing it. ``status`` is
the HTTP status when the error answers a request directly. ``waits_for`` is set on errors that a task waits out
instead of failing: it is the ``reason`` of the job's ``waiting_for``, ``retry_after`` says for how many seconds.
A task that has met such an error for the first time ``patience`` seconds ago fails with it all the same. It never
rests beyond that moment, nor for longer than `LONGEST_REST`.
A message never carries a secret, a query string or a vendor exception's text (DESIGN: those print presigned URLs).
"""

from __future__ import annotations

from random import uniform
from typing import ClassVar, Final, Self

LONGEST_REST: Final = 24 * 3600.0
"""Seconds after which a task that waits is looked at again, whatever anybody says: a registry may name any number."""


class MirrorError(Exception):
    """Base of all errors that are shown to a user: a sentence, a code, and what to do."""

    code: ClassVar[str]
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    waits_for: ClassVar[str | None] = None
    hint: str
    registry: str | None = None
    retry_after: float = 10.0
    patience: ClassVar[float] = 24 * 3600.0

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class InvalidInput(MirrorError):
    status = 422


class InvalidReference(InvalidInput):
    """A reference or repository name that breaks the grammar; the reason says where."""

    code = "NAME_INVALID"
    hint = "Write it as 'docker pull' takes it, for example 'redis:7' or 'gcr.io/project/image:1.0'."

    def __init__(self, text: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{quoted(text)} is not a valid image reference: {reason}", hint=hint)
        self.reason = reason


class InvalidTag(InvalidInput):
    code = "TAG_INVALID"
    hint = "A tag has at most 128 letters, digits, '_', '.' and '-', and does not start with '.' or '-'."

    def __init__(self, text: str) -> None:
        super().__init__(f"{quoted(text)} is not a valid tag")


class InvalidDigest(InvalidInput):
    code = "DIGEST_INVALID"
    hint = "A digest is 'sha256:' and 64 lower-case hexadecimal digits, or 'sha512:' and 128."

    def __init__(self, text: str) -> None:
        super().__init__(f"{quoted(text)} is not a valid digest")


class NameTooLong(InvalidInput):
    code = "NAME_TOO_LONG"
    hint = "Give a shorter target: many clients take no more than 255 characters of host and name."

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"The name {quoted(name)} has {len(name)} characters, more than the {limit} that clients take")


class TargetReserved(InvalidInput):
    """A target under a registry's name takes images from that registry only, and an official name official ones."""

    code = "TARGET_RESERVED"
    hint = "Choose a target whose first component does not look like a registry's host."

    def __init__(self, repository: str, owner: str, source: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"The target '{repository}' is reserved for images from '{owner}', and the source is '{source}'", hint=hint
        )


class TargetRepeated(InvalidInput):
    """Two images of one job want the same place: which of them it shows in the end would be chance."""

    code = "TARGET_REPEATED"
    hint = "Give every image of a job a target of its own."

    def __init__(self, target: str) -> None:
        super().__init__(f"More than one image of the job has the target '{target}'")


class SourceError(MirrorError):
    status = 502


class SourceUnreachable(SourceError):
    code, retryable = "SOURCE_UNREACHABLE", True
    hint = "Check the name and the network between the workers and the registry, then try again."

    def __init__(
        self,
        registry: str,
        reason: str,
        *,
        timed_out: bool = False,
        out_of_time: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"The registry {registry} cannot be reached: {reason}", hint=hint)
        self.reason = reason
        self.timed_out = timed_out
        self.out_of_time = out_of_time


class RegistryDown(SourceError):
    """A registry that is known to work cannot be reached, as *what* says."""

    code, retryable = "SOURCE_UNREACHABLE", True
    waits_for = "registry_unreachable"
    patience = 3600.0
    hint = "The mirror goes on when the registry answers again; check its status and the network if that takes long."

    def __init__(self, registry: str, what: str, retry_after: float) -> None:
        super().__init__(f"{what}; it is asked again in {retry_after:.0f} s")
        self.registry = registry
        self.retry_after = retry_after


class RegistryFailing(SourceError):
    """A registry that is known to work answers with failures, as *what* says. See `RegistryDown`."""

    code, retryable = "SOURCE_FAILED", True
    waits_for = "registry_failing"
    patience = 3600.0
    hint = "The mirror goes on when the registry serves again; if that takes long, ask the registry's operator."

    def __init__(self, registry: str, what: str, retry_after: float) -> None:
        super().__init__(f"{what}; it is asked again in {retry_after:.0f} s")
        self.registry = registry
        self.retry_after = retry_after


class RegistryBusy(SourceError):
    """All requests that the registry is sent at once, by all workers together, are under way."""

    code, retryable = "REGISTRY_BUSY", True
    status = 503
    waits_for = "registry_busy"
    retry_after = 5.0
    hint = "The mirror slowed down since the registry did; MIRROR_REGISTRY_CONCURRENCY sets the most that it is sent."

    def __init__(self, registry: str) -> None:
        super().__init__(f"As much is asked of the registry {registry} at once as it bears")
        self.registry = registry


class SourceFailed(SourceError):
    """The registry answered, but not in a way the protocol allows, or with a 5xx to the last attempt."""

    code, retryable = "SOURCE_FAILED", True
    hint = "The fault is on the registry's side; try again later or ask its operator."

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The registry {registry} failed: {reason}", hint=hint)
        self.reason = reason


class PlainHttpNotAllowed(SourceFailed):
    """The registry speaks plain HTTP, or redirects to it, and no setting allows that."""

    code, retryable = "PLAIN_HTTP_NOT_ALLOWED", False
    hint = "Use the registry's TLS port, or allow plain HTTP for it in MIRROR_INSECURE_REGISTRIES."


class TlsExpected(SourceFailed):
    """MIRROR_INSECURE_REGISTRIES or an http:// endpoint allows plain HTTP, and the registry wants TLS."""

    code, retryable = "TLS_EXPECTED", False
    hint = "Remove the registry from MIRROR_INSECURE_REGISTRIES, or write https:// in MIRROR_REGISTRY_ENDPOINTS."


class CertificateInvalid(SourceError):
    code = "CERTIFICATE_INVALID"
    hint = "The registry's operator has to mend its certificate."

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The certificate of the registry {registry} {reason}", hint=hint)


class SourceTooSlow(SourceError):
    """The registry answers, but too slowly. A request that ran *out_of_time* is not to be made again at once."""

    code, retryable = "SOURCE_FAILED", True
    hint = "The registry, or something on the way to it, is too slow; try again later or ask its operator."

    def __init__(self, registry: str, reason: str, *, out_of_time: bool = False) -> None:
        super().__init__(f"The registry {registry} failed: {reason}")
        self.reason = reason
        self.out_of_time = out_of_time


class AddressNotAllowed(SourceError):
    code = "ADDRESS_NOT_ALLOWED"
    status = 422
    hint = "If this network may be read from, add it to MIRROR_ALLOWED_NETWORKS."

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"Connecting to {host} is not allowed: {reason}")


class RealmNotAllowed(SourceError):
    code = "REALM_NOT_ALLOWED"
    hint = "If this token server is the registry's own, name it in MIRROR_TOKEN_REALMS as 'registry=host'."

    def __init__(self, registry: str, realm_host: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"The registry {registry} sends clients to the token server {quoted(realm_host)}, which {reason}", hint=hint
        )


class CredentialsUnavailable(SourceError):
    code = "CREDENTIALS_UNAVAILABLE"
    hint = "Check MIRROR_DOCKER_CONFIG and the credential helper it names, on the worker's host."

    def __init__(self, registry: str, reason: str) -> None:
        super().__init__(f"The credentials for {registry} cannot be had: {reason}")


class Unauthorized(SourceError):
    code = "UNAUTHORIZED"
    hint = "Check that the image exists and that the credentials in MIRROR_DOCKER_CONFIG are right and not expired."

    def __init__(self, registry: str, repository: str, *, with_credentials: bool) -> None:
        who = "refuses our credentials" if with_credentials else "wants credentials and none are configured"
        super().__init__(f"The registry {registry} {who} for '{repository}'")


class Denied(SourceError):
    code = "DENIED"
    hint = "Ask the registry's operator for read access, or use other credentials."

    def __init__(self, registry: str, repository: str) -> None:
        super().__init__(f"The registry {registry} denies reading '{repository}'")


class RateLimited(SourceError):
    """The registry asks us to wait; *retry_after* is in seconds, of its own choice if it *asked*.

    *answered* is the HTTP status: 429, or a 5xx that says when to come back.
    """

    code, retryable = "TOOMANYREQUESTS", True
    status = 429
    waits_for = "rate_limited"
    hint = "Wait, or log in to the registry: a login usually has a higher limit."

    def __init__(self, registry: str, retry_after: float, *, asked: bool = True, answered: int = 429) -> None:
        super().__init__(f"The registry {registry} answered {answered} and asks us to wait {retry_after:.0f} s")
        self.answered = answered
        self.registry = registry
        self.retry_after = retry_after
        self.asked = asked


class QuotaExhausted(SourceError):
    """The registry's pull limit leaves too little for now; it is expected to leave more in *retry_after* seconds."""

    code, retryable = "TOOMANYREQUESTS", True
    status = 429
    waits_for = "quota"
    patience = 30 * 24 * 3600.0  # a window always ends, and a long queue has many of them before it
    hint = "The mirror goes on when the limit's window ends; a login, or a paid plan, usually has a higher limit."

    def __init__(self, registry: str, retry_after: float) -> None:
        super().__init__(f"The pull limit of the registry {registry} is used up for {retry_after:.0f} s")
        self.registry = registry
        self.retry_after = retry_after


class ManifestUnknown(SourceError):
    """The source has no such tag or digest. A private image looks the same to a client that is not logged in."""

    code = "MANIFEST_UNKNOWN"
    hint = (
        "Check the repository and the tag or digest. If the image is private, credentials may be missing: add them to "
        "MIRROR_DOCKER_CONFIG."
    )
    _LOGGED_IN = (
        "Check the repository and the tag or digest. It may have been deleted upstream, or the credentials in "
        "MIRROR_DOCKER_CONFIG may not read it."
    )
    _CHILD = "The index at the source is incomplete: push the image there again with all of its platforms."
    is_child = False
    """Whether an index lists what is missing."""

    def __init__(self, reference: str, *, logged_in: bool = False) -> None:
        super().__init__(f"The source has no image '{reference}'", hint=self._LOGGED_IN if logged_in else None)

    @classmethod
    def of_child(cls, digest: str, platform: str, index: str) -> Self:
        """The error for an entry of *index*; *platform* is empty where the index names none."""
        error = cls(digest)
        whose = f" for {platform}" if platform else ", for no named platform,"
        error.args = (f"The source has no manifest {digest}{whose} that the index '{index}' lists",)
        error.message, error.hint, error.is_child = error.args[0], cls._CHILD, True
        return error


class BlobUnknown(SourceError):
    code = "BLOB_UNKNOWN"
    hint = "The image is damaged at its source; push it there again."

    def __init__(self, registry: str, repository: str, digest: str) -> None:
        super().__init__(
            f"The registry {registry} does not have the blob {digest} that an image in '{repository}' needs"
        )


class AnswerTruncated(SourceError):
    code, retryable = "ANSWER_TRUNCATED", True
    hint = "The connection was cut or the registry is broken; try again."

    def __init__(self, registry: str, what: str) -> None:
        super().__init__(f"The registry {registry} ended its answer too early for {what}")


class AnswerTooLarge(SourceError):
    code = "ANSWER_TOO_LARGE"
    hint = "No honest registry needs an answer of this size; check what is served there."

    def __init__(self, registry: str, what: str, limit: int) -> None:
        super().__init__(f"The registry {registry} answered with more than {limit} bytes for {what}")


class ContentError(MirrorError):
    status = 502


class ManifestInvalid(ContentError):
    code = "MANIFEST_INVALID"
    hint = "The manifest is damaged or made to mislead; have it built and pushed anew."

    def __init__(self, what: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The manifest {what} is invalid: {reason}", hint=hint)


class MediaTypeUnsupported(ContentError):
    code = "MEDIA_TYPE_UNSUPPORTED"
    hint = "Docker schema 2 and OCI manifests and indexes can be mirrored; rebuild older images with a current tool."

    def __init__(self, what: str, media_type: str) -> None:
        super().__init__(f"The manifest {what} has the media type {quoted(media_type)}, which cannot be mirrored")


class DigestMismatch(ContentError):
    code = "DIGEST_MISMATCH"
    hint = "The bytes were changed on the way or at the source; do not trust that copy."

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"The bytes of {expected} have the digest {actual}")


class SizeInvalid(ContentError):
    code = "SIZE_INVALID"
    hint = "The manifest and the bytes disagree; have the image pushed anew at its source."

    def __init__(
        self, digest: str, expected: int | str, actual: int | str, *, what: str = "blob", hint: str | None = None
    ) -> None:
        super().__init__(f"The {what} {digest} should have {expected} bytes and has {actual}", hint=hint)


class NotHeld(MirrorError):
    status = 404


class RepositoryNotHeld(NotHeld):
    code = "NAME_UNKNOWN"
    hint = "GET /v1/repositories lists what is held."

    def __init__(self, repository: str) -> None:
        super().__init__(f"The mirror holds no repository '{repository}'")


class ImageNotHeld(NotHeld):
    code = "MANIFEST_UNKNOWN"
    hint = "Mirror it first with POST /v1/jobs; GET /v1/images lists what is held."

    def __init__(self, image: str) -> None:
        super().__init__(f"The mirror holds no image '{image}'")


class BlobNotHeld(NotHeld):
    code = "BLOB_UNKNOWN"
    hint = "Mirror the image that needs it again."

    def __init__(self, repository: str, digest: str) -> None:
        super().__init__(f"The mirror holds no blob {digest} in '{repository}'")


class JobUnknown(NotHeld):
    code = "JOB_UNKNOWN"
    hint = "GET /v1/jobs lists the jobs."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {quoted(job_id)}")


class TaskUnknown(NotHeld):
    code = "TASK_UNKNOWN"
    hint = "GET /v1/jobs/{job_id}/tasks lists the tasks of a job."

    def __init__(self, job_id: str, task_id: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has no task {quoted(task_id)}")


class Conflict(MirrorError):
    status = 409


class JobFinished(Conflict):
    """There is nothing left of it to cancel."""

    code = "JOB_FINISHED"
    hint = "To have its failed images mirrored after all, POST to its /retry; to remove an image, DELETE its tag."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has finished: it is {state}")


class JobUnfinished(Conflict):
    code = "JOB_UNFINISHED"
    hint = "Wait for its end, or cancel it first; a job that was told to cancel takes seconds to stop."

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"The job {quoted(job_id)} has not finished: it is {state}")


class JobSucceeded(Conflict):
    code = "JOB_SUCCEEDED"
    hint = "To see whether the source has something newer, POST a new job."

    def __init__(self, job_id: str) -> None:
        super().__init__(f"All images of the job {quoted(job_id)} have succeeded")


class PreconditionFailed(Conflict):
    code = "PRECONDITION_FAILED"
    status = 412
    hint = "Read the image again and decide on what it is now."

    def __init__(self, image: str, actual: str | None) -> None:
        now = f"points at {actual}" if actual else "does not exist"
        super().__init__(f"'{image}' {now}, which is not what If-Match or If-None-Match asked for")


class ManifestInUse(Conflict):
    code = "MANIFEST_IN_USE"
    hint = "Delete the tags that hold it."

    def __init__(self, image: str, tags: str) -> None:
        super().__init__(f"'{image}' is held by {tags}")


class TagBusy(Conflict):
    code, retryable = "TAG_BUSY", True
    waits_for = "tag_busy"
    hint = "Another change of this tag is under way; try again in a few seconds."

    def __init__(self, image: str) -> None:
        super().__init__(f"The tag '{image}' is being changed by somebody else")


class BlobBusy(Conflict):
    """Another job's worker is copying the blob, and the fleet fetches every blob once."""

    code, retryable = "BLOB_BUSY", True
    waits_for = "blob_in_transfer"
    retry_after = 3.0
    hint = "Another job is copying this blob; this job goes on when that one has it."

    def __init__(self, digest: str) -> None:
        super().__init__(f"The blob {digest} is being copied by another job")


class BlobBeingDeleted(Conflict):
    code, retryable = "BLOB_BEING_DELETED", True
    waits_for = "blob_being_deleted"
    hint = "Garbage collection is deleting it at this moment; try again in a few seconds."

    def __init__(self, digest: str) -> None:
        super().__init__(f"The blob {digest} is being deleted")


class Unavailable(MirrorError):
    retryable = True
    status = 503


class MemoryBusy(Unavailable):
    """Other images' manifests hold so much of the worker's memory that this image's do not fit in."""

    code = "MEMORY_BUSY"
    waits_for = "memory"
    hint = "The mirror goes on when other images are done; MIRROR_MEMORY_BUDGET sets what a worker may hold."

    def __init__(self, what: str) -> None:
        super().__init__(f"The manifests of {what} do not fit into the worker's memory beside those of other images")
        self.retry_after = uniform(5, 15)  # noqa: S311 - spreads those that wait, guards nothing


class StorageUnavailable(Unavailable):
    """``size`` is the bytes of the write that failed, 0 for anything else.

    ``needed`` is set where it is known how many bytes more have no room.
    """

    code = "STORAGE_UNAVAILABLE"
    waits_for = "storage_unavailable"
    hint = "Check the S3 endpoint, its bucket and the credentials; /readyz?verbose shows whether it answers."
    size = 0
    needed: int | None = None

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(self.told(action, reason))
        self.action = action
        self.reason = reason

    def told(self, action: str, reason: str) -> str:
        return f"The bucket could not {action}: {reason}"


class StorageFull(StorageUnavailable):
    """S3 has no space for more: its disk is full, or a quota is used up."""

    code = "STORAGE_FULL"
    waits_for = "storage_full"
    hint = "Free space on the disk of S3, or raise its quota; jobs go on by themselves then. Pulls work meanwhile."

    def told(self, action: str, reason: str) -> str:
        return f"The bucket cannot write: {reason} (it could not {action})"


class StorageRefused(Unavailable):
    """S3 answered and said no (credentials, missing bucket, quota): waiting alone does not help."""

    code, retryable = "STORAGE_REFUSED", False
    hint = "Check the S3 credentials, the bucket's name, its policy and its quota."

    def __init__(self, action: str, reason: str) -> None:
        super().__init__(f"The bucket refused to {action}: {reason}")


class StorageDamaged(Unavailable):
    """An object in the bucket is not what only the mirror writes there."""

    code, retryable = "STORAGE_DAMAGED", False
    status = 500
    hint = "Something else wrote to the bucket; restore the object, or delete the image and mirror it again."

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The object '{key}' in the bucket is damaged: {reason}")


class RedisUnavailable(Unavailable):
    """Redis is away, or refuses to work; *reason* continues the sentence "Redis, which keeps the jobs, …"."""

    code = "REDIS_UNAVAILABLE"
    hint = "Check that Redis runs and MIRROR_REDIS_URL is right; /readyz?verbose shows whether it answers."

    def __init__(self, reason: str = "does not answer", *, hint: str | None = None) -> None:
        super().__init__(f"Redis, which keeps the jobs, {reason}", hint=hint)


class CatalogRebuilding(Unavailable):
    code = "CATALOG_REBUILDING"
    hint = (
        "The index of the images is being rebuilt from the bucket; pulls work meanwhile, lists come back by themselves."
    )

    def __init__(self) -> None:
        super().__init__("The list of images is being rebuilt from the bucket")


class WorkerLost(MirrorError):
    code, retryable = "WORKER_LOST", True
    hint = "Look at the workers' logs (out of memory, killed by the host), then POST to the job's /retry."

    def __init__(self, task: str, losses: int) -> None:
        super().__init__(f"The worker of task {task} was lost {losses} times in a row without getting further")


class InternalError(MirrorError):
    """A fault of ours. The log has the traceback; the answer and the record have not, for it could show a secret."""

    code = "INTERNAL_ERROR"
    hint = "Look for the request, job or task id in the logs and report what stands there."

    def __init__(self) -> None:
        super().__init__("The mirror itself failed in a way it did not expect")


def quoted(text: str, limit: int = 160) -> str:
    """*text* as it may stand in a message: control characters escaped, length bounded."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return repr(shown)


def every_error() -> list[type[MirrorError]]:
    """All concrete error classes, in the tree's order: the table that the reference page is checked against."""
    found: list[type[MirrorError]] = []

    def walk(cls: type[MirrorError]) -> None:
        for child in cls.__subclasses__():
            if "code" in vars(child):
                found.append(child)
            walk(child)

    walk(MirrorError)
    return found
