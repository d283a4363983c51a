"""The registry client: manifests and blobs of the distribution API, read from registries that need not be honest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, Self

from mirror.errors import DigestMismatch, ManifestUnknown, SizeInvalid
from mirror.http.address_guard import AddressGuard
from mirror.http.deadlines import Wakers, never_woken
from mirror.http.headers import media_type, named_digest
from mirror.http.transport import Answer, Transport
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.media_types import ACCEPTED
from mirror.oci.reference import Reference
from mirror.registry.auth import Ask, Authenticator
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.blob_stream import BlobStream
from mirror.registry.blobs import BlobSource
from mirror.registry.byte_range import ByteRange
from mirror.registry.credentials import DockerConfig
from mirror.registry.endpoints import Endpoints
from mirror.registry.heads import Heads
from mirror.registry.manifests import ManifestReader, RemoteManifest
from mirror.registry.pull_limit import LimitReader
from mirror.registry.redirects import Redirects
from mirror.registry.retry import Retries
from mirror.registry.slot import Slot
from mirror.registry.throttle import Throttle, Unthrottled, Wait
from mirror.settings import Settings

_ACCEPT: Final = {"Accept": ", ".join(ACCEPTED)}


class RegistryClient:
    """Reads any registry, with one pool of connections and one token per repository. Safe to share between threads.

    Every request but a HEAD is tried up to four times, with full jitter, over lost connections and 5xx. A 429 is asked
    again once, if it asks for at most 5 s, and raises RateLimited otherwise. Before a request is sent it is
    admitted: it may wait for a slot, or raise an error that parks its task: RegistryBusy, RegistryDown,
    RegistryFailing, QuotaExhausted. Nothing but `mirror.errors` is raised, and what *sleep* raises to end a wait.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        ask: Ask,
        *,
        realms: Mapping[str, frozenset[str]] | None = None,
        admission: Throttle | None = None,
        sleep: Wait = time.sleep,
    ) -> None:
        auth = Authenticator(transport, endpoints, ask, dict(realms or {}))
        redirects = Redirects(transport, endpoints)
        self._transport = transport
        self._admission = admission or Unthrottled()
        self._wait = sleep
        self._exchange = AuthorizedRequests(endpoints, redirects, auth)
        self._login = auth.login
        self._limits = LimitReader(self._admission, auth.login)
        self._heads = Heads(self._admission)
        self._blobs = BlobSource(self._exchange, redirects, self._admission, sleep)
        self._attempts = Retries(self._admission, sleep)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        admission: Throttle | None = None,
        sleep: Wait = time.sleep,
        wakers: Wakers = never_woken,
    ) -> Self:
        """Makes no connection and reads no file yet. *sleep* is what every wait is made with, and may raise to end it:
        between attempts, and with 0 while a slot is waited for. *wakers* is told how to end a wait for the registry.
        """
        config = settings.docker_config
        return cls(
            Transport(AddressGuard(settings.allowed_networks), wakers=wakers),
            Endpoints.from_settings(settings),
            DockerConfig(config).credential if config else _anonymous,
            realms=settings.token_realms,
            admission=admission,
            sleep=sleep,
        )

    def head_manifest(self, reference: Reference) -> Digest | None:
        """The digest that the reference has now, by a HEAD, which costs no pull quota. None where only a GET can tell.

        A HEAD is a shortcut. Many registries answer it with an error where a GET works, so it is tried once, and of
        its failures only a 401 and a 429 are raised. Where a GET has worked instead, HEADs are left out for a while.
        """
        digest = self._attempts.shortcut(reference.registry, self._head_manifest, reference)
        if digest is None:
            self._heads.told_nothing(reference)
        return digest

    def reading(self, reference: Reference) -> ManifestReader:
        """A reader of one image's manifests, as a context: it reserves what it reads of the registry's pull limit."""
        return ManifestReader(
            self._admission,
            self._limits,
            reference,
            peek=self.head_manifest,
            fetch=self._fetch_manifest,
            fetch_once=self._fetch_once,
            wait=self._wait,
        )

    def get_manifest(self, reference: Reference, *, expect: Descriptor | None = None) -> RemoteManifest:
        """One manifest: see `ManifestReader.get`."""
        with self.reading(reference) as manifests:
            return manifests.get(reference, expect=expect)

    def open_blob(
        self,
        reference: Reference,
        blob: Descriptor,
        *,
        offset: int = 0,
        length: int | None = None,
    ) -> BlobStream:
        """*length* bytes of a blob in the reference's repository from *offset* on, all that follow if it is not given.

        A server that knows no ranges sends the whole blob: the stream's ``start`` and ``length`` tell. Where the
        registry redirects to another origin, later ranges of the blob go straight there until that answers no more.
        The stream holds a slot: whoever has one open must not wait for somebody else's. Raises BlobUnknown,
        SizeInvalid if the answer announces another size, and what all requests raise.
        """
        wanted = ByteRange.of(blob, offset, length)
        return self._attempts(reference.registry, self._blobs.open, reference, blob, wanted)

    def close(self) -> None:
        self._transport.close()

    def _head_manifest(self, reference: Reference) -> Digest | None:
        """None where no HEAD is sent: the registry is known to answer none, and a GET costs nothing there."""
        if self._heads.are_useless(reference.registry) and self._limits.account(reference) is None:
            return None
        begun = monotonic()
        with Slot(self._admission, reference.registry, "manifests", self._wait):
            answer = self._exchange.send("HEAD", reference, f"manifests/{reference.target}", _ACCEPT).answer
            if answer.status == 200:
                answer.dismiss()
            else:  # servers that know no HEAD send a body after it, which would be read as the next answer
                answer.close()
            self._limits.heard(reference, answer, begun)
            self._require_manifest(answer, reference)
            return named_digest(answer.headers)

    def _fetch_manifest(
        self, reference: Reference, expect: Descriptor | None, take: Callable[[], str | None]
    ) -> RemoteManifest:
        found = self._attempts(reference.registry, self._get_manifest, reference, expect, take)
        self._heads.was_served(reference)
        return found

    def _fetch_once(self, reference: Reference, take: Callable[[], str | None]) -> RemoteManifest | None:
        return self._attempts.shortcut(reference.registry, self._get_manifest, reference, None, take)

    def _require_manifest(self, answer: Answer, reference: Reference) -> None:
        logged_in = self._login(reference.registry, reference.repository) is not None
        unknown = ManifestUnknown(str(reference), logged_in=logged_in)
        self._exchange.require_ok(answer, reference, unknown, asked_for=f"the manifest of {reference}")

    def _get_manifest(
        self, reference: Reference, expect: Descriptor | None, take: Callable[[], str | None]
    ) -> RemoteManifest:
        unit, begun = take(), monotonic()
        with (
            Slot(self._admission, reference.registry, "manifests", self._wait),
            self._exchange.send("GET", reference, f"manifests/{reference.target}", _ACCEPT).answer as answer,
        ):
            self._limits.heard(reference, answer, begun, unit)
            if answer.status == 429 and (refused := self._limits.refusal(reference, answer)):
                raise refused
            self._require_manifest(answer, reference)
            named = [d for d in (reference.digest, expect and expect.digest, named_digest(answer.headers)) if d]
            body = answer.read(MAX_MANIFEST_SIZE, f"the manifest of {reference}")
            content_type = media_type(answer.headers)
        if expect and len(body) != expect.size:
            raise SizeInvalid(str(expect.digest), expect.size, len(body))
        for digest in named:
            if (actual := Digest.of(body, digest.algorithm)) != digest:
                raise DigestMismatch(str(digest), str(actual))
        return RemoteManifest(body, content_type, named[0] if named else Digest.of(body))


def _anonymous(_registry: str, _repository: str) -> None:
    return None
