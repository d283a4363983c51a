"""The registry client: manifests and blobs of the distribution API, read from registries that need not be honest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urljoin

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
from mirror.registry.credentials import DockerConfig
from mirror.registry.endpoints import Endpoints
from mirror.registry.statuses import ServerFailed, error_for_trouble
from mirror.registry.transport import Answer, Origin, Transport, declared_length
from mirror.settings import Settings

ATTEMPTS: Final = 4
LONGEST_PAUSE: Final = 5.0
"""Seconds that are waited here; a registry that asks for more parks the task."""
_REDIRECTS: Final = 5
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})
_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:([0-9]{1,19})|\*)", re.ASCII)
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

    def open_blob(self, reference: Reference, blob: Descriptor, *, offset: int = 0) -> BlobStream:
        """The bytes of a blob in the reference's repository, from *offset* on if the server knows ranges.

        Raises BlobUnknown, SizeInvalid if the answer announces another size, and what all requests raise.
        """
        return self._retrying.copy()(self._open_blob, reference, blob, offset)

    def close(self) -> None:
        self._transport.close()

    def _head_manifest(self, reference: Reference) -> Digest | None:
        answer = self._send("HEAD", reference, f"manifests/{reference.target}", _ACCEPT)
        answer.dismiss()
        if answer.status == 405:
            return None
        self._require_ok(answer, reference, ManifestUnknown(str(reference)))
        return _named_digest(answer)

    def _get_manifest(self, reference: Reference, expect: Descriptor | None) -> RemoteManifest:
        with self._send("GET", reference, f"manifests/{reference.target}", _ACCEPT) as answer:
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

    def _open_blob(self, reference: Reference, blob: Descriptor, offset: int) -> BlobStream:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self._send("GET", reference, f"blobs/{blob.digest}", headers)
        try:
            unknown = BlobUnknown(reference.registry, reference.repository, str(blob.digest))
            self._require_ok(answer, reference, unknown, (200, 206))
            start = _start_of(answer, blob, offset)
            announced = declared_length(answer.headers)
            if announced and announced != blob.size - start:
                raise SizeInvalid(str(blob.digest), blob.size, start + announced)
        except BaseException:
            answer.close()
            raise
        return BlobStream(answer, blob, start=start)

    def _send(self, method: str, reference: Reference, path: str, headers: Mapping[str, str]) -> Answer:
        """Send the request, logging in and following redirects; the answer's status is the caller's business."""
        registry, repository = reference.registry, reference.repository
        url = f"{self._endpoints.base_url(registry)}/v2/{repository}/{path}"
        authorization = self._auth.authorization(registry, repository)
        answer = self._follow(method, url, headers, authorization, registry)
        if answer.status == 401:
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.dismiss()
            authorization = self._auth.answer(registry, repository, challenge, authorization)
            answer = self._follow(method, url, headers, authorization, registry)
        return answer

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str | None, registry: str
    ) -> Answer:
        """Request, and follow redirects, each through the guard.

        `Authorization` stays behind for good at the first other origin, and what asks for one from there on gets none.
        """
        home, left = Origin.of(url), False
        for _ in range(_REDIRECTS + 1):
            answer = self._transport.request(method, url, _with(headers, authorization), registry=registry)
            if left and answer.status in (401, 403):
                answer.close()
                raise ServerFailed(registry, f"the target of its redirect answered {answer.status}")
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTING or not location:
                return answer
            answer.dismiss()
            url, origin = self._redirected(registry, url, location)
            if origin != home:
                authorization, left = None, True
        raise SourceFailed(registry, f"it redirects more than {_REDIRECTS} times")

    def _redirected(self, registry: str, url: str, location: str) -> tuple[str, Origin]:
        """Where *location* leads from *url*; raises SourceFailed where we may not go."""
        try:
            url = urljoin(url, location)
            origin = Origin.of(url)
        except ValueError:
            raise SourceFailed(registry, "it redirects to what is no http or https URL") from None
        if not self._endpoints.permits(registry, origin):
            raise SourceFailed(registry, f"it redirects to {origin} without TLS")
        return url, origin

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


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    return {**headers, "Authorization": authorization} if authorization else dict(headers)


def _named_digest(answer: Answer) -> Digest | None:
    text = answer.headers.get("Docker-Content-Digest")
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise SourceFailed(answer.registry, "its Docker-Content-Digest is malformed") from None


def _start_of(answer: Answer, blob: Descriptor, offset: int) -> int:
    """Where the body begins: *offset* for a 206 that says exactly so, 0 for a 200."""
    if answer.status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if (
        not match
        or (int(match[1]), int(match[2])) != (offset, blob.size - 1)
        or int(match[3] or blob.size) != blob.size
    ):
        raise SourceFailed(answer.registry, "it answered with another range than asked for")
    return offset


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
