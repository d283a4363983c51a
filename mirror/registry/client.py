"""The registry client: manifests and blobs of the distribution API, read from registries that need not be honest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from mirror.errors import (
    AnswerTruncated,
    BlobUnknown,
    Denied,
    DigestMismatch,
    InvalidDigest,
    ManifestUnknown,
    MirrorError,
    RateLimited,
    SizeInvalid,
    SourceFailed,
    SourceUnreachable,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.media_types import ACCEPTED
from mirror.oci.parsing import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference
from mirror.registry.address_guard import AddressGuard
from mirror.registry.auth import Ask, Authenticator
from mirror.registry.blob_stream import BlobStream
from mirror.registry.byte_range import ByteRange
from mirror.registry.credentials import DockerConfig
from mirror.registry.endpoints import Endpoints
from mirror.registry.redirects import BlobTargets, Followed, Redirects
from mirror.registry.statuses import ServerFailed, error_for_trouble
from mirror.registry.transport import Answer, Transport
from mirror.settings import Settings

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds that are waited here; a registry that asks for more parks the task."""
_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteManifest:
    """A manifest's exact bytes, the Content-Type they came with (None if none did), and the digest they have."""

    body: bytes
    media_type: str | None
    digest: Digest


class RegistryClient:
    """Reads any registry, with one pool of connections and one token per repository. Safe to share between threads.

    Every request is tried up to four times, with full jitter, over lost connections, 5xx, and a 429 whose Retry-After
    is at most 5 s; a longer one raises RateLimited at once. Nothing but `mirror.errors` is raised.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        ask: Ask,
        *,
        realms: Mapping[str, frozenset[str]] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._endpoints = endpoints
        self._redirects = Redirects(transport, endpoints)
        self._targets = BlobTargets()
        self._auth = Authenticator(transport, endpoints, ask, dict(realms or {}))
        self._retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_pause,
            sleep=sleep,
            before_sleep=_note,
            reraise=True,
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, sleep: Callable[[float], None] = time.sleep) -> Self:
        """Makes no connection and reads no file yet. *sleep* waits between attempts, and may raise to end them."""
        config = settings.docker_config
        return cls(
            Transport(AddressGuard(settings.allowed_networks)),
            Endpoints.from_settings(settings),
            DockerConfig(config).credential if config else _anonymous,
            realms=settings.token_realms,
            sleep=sleep,
        )

    def head_manifest(self, reference: Reference) -> Digest | None:
        """What the reference is now; None where the registry does not say, or knows no HEAD. Costs no pull quota."""
        return self._retrying.copy()(self._head_manifest, reference)

    def get_manifest(self, reference: Reference, *, expect: Descriptor | None = None) -> RemoteManifest:
        """A manifest by tag or digest, at most 4 MiB, checked against every digest that was named, and *expect*.

        Raises ManifestUnknown, DigestMismatch, SizeInvalid, AnswerTooLarge, and what all requests raise.
        """
        return self._retrying.copy()(self._get_manifest, reference, expect)

    def open_blob(
        self, reference: Reference, blob: Descriptor, *, offset: int = 0, length: int | None = None
    ) -> BlobStream:
        """*length* bytes of a blob in the reference's repository from *offset* on, all that follow if it is not given.

        A server that knows no ranges sends the whole blob: the stream's ``start`` and ``length`` tell. Where the
        registry redirects to another origin, later ranges of the blob go straight there until that answers no more.
        Raises BlobUnknown, SizeInvalid if the answer announces another size, and what all requests raise.
        """
        return self._retrying.copy()(self._open_blob, reference, blob, ByteRange.of(blob, offset, length))

    def close(self) -> None:
        self._transport.close()

    def _head_manifest(self, reference: Reference) -> Digest | None:
        answer = self._send("HEAD", reference, f"manifests/{reference.target}", _ACCEPT).answer
        answer.dismiss()
        if answer.status == 405:
            return None
        self._require_ok(answer, reference, ManifestUnknown(str(reference)))
        return _named_digest(answer)

    def _get_manifest(self, reference: Reference, expect: Descriptor | None) -> RemoteManifest:
        with self._send("GET", reference, f"manifests/{reference.target}", _ACCEPT).answer as answer:
            self._require_ok(answer, reference, ManifestUnknown(str(reference)))
            named = [d for d in (reference.digest, expect and expect.digest, _named_digest(answer)) if d]
            body = answer.read(MAX_MANIFEST_SIZE, f"the manifest of {reference}")
            media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() or None
        if expect and len(body) != expect.size:
            raise SizeInvalid(str(expect.digest), expect.size, len(body))
        for digest in named:
            if (actual := Digest.of(body, digest.algorithm)) != digest:
                raise DigestMismatch(str(digest), str(actual))
        return RemoteManifest(body, media_type, named[0] if named else Digest.of(body))

    def _open_blob(self, reference: Reference, blob: Descriptor, wanted: ByteRange) -> BlobStream:
        headers = wanted.headers(blob)
        if target := self._targets.get(reference, blob.digest):
            if answer := self._redirects.at_target(target, headers, reference.registry):
                return self._stream(answer, reference, blob, wanted)
            self._targets.forget(reference, blob.digest)
        followed = self._send("GET", reference, f"blobs/{blob.digest}", headers)
        stream = self._stream(followed.answer, reference, blob, wanted)
        if followed.target:
            self._targets.remember(reference, blob.digest, followed.target)
        return stream

    def _stream(self, answer: Answer, reference: Reference, blob: Descriptor, wanted: ByteRange) -> BlobStream:
        """The answer's bytes. Where they are not what they should be, nobody goes straight to their origin again."""
        broken = partial(self._targets.forget, reference, blob.digest)
        try:
            unknown = BlobUnknown(reference.registry, reference.repository, str(blob.digest))
            self._require_ok(answer, reference, unknown, (200, 206))
            held = wanted.answered(answer, blob)
        except BaseException:
            broken()
            answer.close()
            raise
        return BlobStream(answer, blob, held, broken)

    def _send(self, method: str, reference: Reference, path: str, headers: Mapping[str, str]) -> Followed:
        """Send the request, logging in and following redirects; the answer's status is the caller's business."""
        registry, repository = reference.registry, reference.repository
        url = f"{self._endpoints.base_url(registry)}/v2/{repository}/{path}"
        authorization = self._auth.authorization(registry, repository)
        followed = self._redirects.follow(method, url, headers, authorization, registry)
        if followed.answer.status == 401:
            challenge = followed.answer.headers.get("WWW-Authenticate", "")
            followed.answer.dismiss()
            authorization = self._auth.answer(registry, repository, challenge, authorization)
            followed = self._redirects.follow(method, url, headers, authorization, registry)
        return followed

    def _require_ok(
        self, answer: Answer, reference: Reference, unknown: MirrorError, accepted: tuple[int, ...] = (200,)
    ) -> None:
        if answer.status in accepted:
            if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise SourceFailed(answer.registry, "it encoded an answer that was asked for as it is")
            return
        if answer.status == 401:
            raise self._auth.refusal(reference.registry, reference.repository)
        if answer.status == 403:
            raise Denied(reference.registry, reference.repository)
        if answer.status == 404:
            raise unknown
        raise error_for_trouble(reference.registry, answer.status, answer.headers, what="it answered")


def _anonymous(_registry: str, _repository: str) -> None:
    return None


def _named_digest(answer: Answer) -> Digest | None:
    text = answer.headers.get("Docker-Content-Digest")
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise SourceFailed(answer.registry, "its Docker-Content-Digest is malformed") from None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, RateLimited):
        return error.retry_after <= LONGEST_PAUSE
    return isinstance(error, SourceUnreachable | ServerFailed | AnswerTruncated)


_JITTER: Final = wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE)


def _pause(state: RetryCallState) -> float:
    """What the registry asks for, else full jitter."""
    error = state.outcome.exception() if state.outcome else None
    return error.retry_after if isinstance(error, RateLimited) else _JITTER(state)


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, MirrorError):
        _LOG.info(
            "trying the registry again",
            source=str(state.args[0]),
            attempt=state.attempt_number,
            code=error.code,
            reason=error.message,
        )
