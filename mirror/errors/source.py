"""Errors of a source registry: it cannot be reached, refuses, or does not follow the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final, Self

from mirror.errors.base import MirrorError, listed, quoted


class SourceError(MirrorError):
    """A source registry did not deliver what was requested."""

    status = 502
    responded: ClassVar[bool] = True
    """Whether the registry returned any response."""
    overloaded: bool = False
    """Whether the registry has too many requests. The workers then send it fewer at once."""
    out_of_time: bool = False
    """Whether the request used all its time. It is not repeated at once, because its task already waited a minute."""
    transient: bool = False
    """Whether the same request may succeed if it is repeated at once."""


class SourceUnreachable(SourceError):
    """There is no connection to the registry, or no response."""

    code, retryable = "SOURCE_UNREACHABLE", True
    hint = "Check the registry's name, and the network between the workers and the registry. Then try again."
    responded = False

    def __init__(
        self,
        registry: str,
        reason: str,
        *,
        timed_out: bool = False,
        out_of_time: bool = False,
        hint: str | None = None,
    ) -> None:
        message = f"The registry {registry} cannot be reached: {reason}"
        super().__init__(message, hint=hint, reason=reason, registry=registry)
        self.timed_out = self.overloaded = timed_out
        self.out_of_time = out_of_time
        self.transient = not out_of_time


class SourceFailed(SourceError):
    """The registry broke the protocol, or returned a 5xx to the last attempt."""

    code, retryable = "SOURCE_FAILED", True
    hint = "The fault is at the registry. Try again later, or ask its operator."

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The registry {registry} failed: {reason}", hint=hint, reason=reason, registry=registry)


class SourceTooSlow(SourceError):
    """The registry responds, but too slowly."""

    code, retryable = "SOURCE_FAILED", True
    hint = "The registry, or the network to it, is too slow. Try again later, or ask its operator."
    overloaded = True

    def __init__(self, registry: str, reason: str, *, out_of_time: bool = False) -> None:
        super().__init__(f"The registry {registry} failed: {reason}", reason=reason, registry=registry)
        self.out_of_time = out_of_time
        self.transient = not out_of_time


class _Outage(SourceError):
    """A registry that worked in the last 30 days has an outage. Tasks wait for its end."""

    retryable = True
    patience = 3600.0

    def __init__(self, registry: str, what: str, retry_after: float) -> None:
        message = f"{what}. The next attempt is in {retry_after:.0f} s"
        super().__init__(message, registry=registry, retry_after=retry_after)


class RegistryDown(_Outage):
    """A registry that is known to work cannot be reached. *what* is the message of the last failure."""

    code = "SOURCE_UNREACHABLE"
    waits_for = "registry_unreachable"
    responded = False
    hint = "The job continues when the registry responds again. If that takes long, check the registry and the network."


class RegistryFailing(_Outage):
    """A registry that is known to work returns errors. *what* is the message of the last failure."""

    code = "SOURCE_FAILED"
    waits_for = "registry_failing"
    hint = "The job continues when the registry works again. If that takes long, ask the registry's operator."


class RegistryBusy(SourceError):
    """All workers together already send the registry as many requests as it can take."""

    code, retryable = "REGISTRY_BUSY", True
    status = 503
    waits_for = "registry_busy"
    retry_after = 5.0
    hint = "The mirror sends fewer requests because the registry slowed down. See MIRROR_REGISTRY_CONCURRENCY."

    def __init__(self, registry: str) -> None:
        super().__init__(f"The registry {registry} already has the most requests that it can take", registry=registry)


class RateLimited(SourceError):
    """The registry asks to wait for *retry_after* seconds.

    *asked* says whether the registry named that time itself. *answered* is the HTTP status: 429, or a 5xx with
    Retry-After.
    """

    code, retryable = "TOOMANYREQUESTS", True
    status = 429
    waits_for = "rate_limited"
    overloaded = True
    hint = "Wait, or log in to the registry: a login usually has a higher limit."

    def __init__(self, registry: str, retry_after: float, *, asked: bool = True, answered: int = 429) -> None:
        message = f"The registry {registry} answered {answered} and asks us to wait {retry_after:.0f} s"
        super().__init__(message, registry=registry, retry_after=retry_after)
        self.answered = answered
        self.asked = asked
        self.http_retry_after = max(1, math.ceil(retry_after))


class QuotaExhausted(SourceError):
    """The registry's pull limit has too little left for the image, until *retry_after* seconds have passed."""

    code, retryable = "TOOMANYREQUESTS", True
    status = 429
    waits_for = "quota"
    patience = 30 * 24 * 3600.0  # a long queue needs many windows of the limit, and each of them ends
    hint = "The job continues when the limit's window ends. A login, or a paid plan, usually has a higher limit."

    def __init__(self, registry: str, retry_after: float) -> None:
        message = f"The pull limit of the registry {registry} is used up for {retry_after:.0f} s"
        super().__init__(message, registry=registry, retry_after=retry_after)


class PlainHttpNotAllowed(SourceFailed):
    """The registry speaks plain HTTP, or redirects to it, and no setting allows that."""

    code, retryable = "PLAIN_HTTP_NOT_ALLOWED", False
    hint = "Use the registry's TLS port, or allow plain HTTP for it in MIRROR_INSECURE_REGISTRIES."


class TlsExpected(SourceFailed):
    """A setting makes the mirror use plain HTTP for a registry that expects TLS.

    The setting is MIRROR_INSECURE_REGISTRIES, or an http:// URL in MIRROR_REGISTRY_ENDPOINTS.
    """

    code, retryable = "TLS_EXPECTED", False
    hint = "Remove the registry from MIRROR_INSECURE_REGISTRIES, or write https:// in MIRROR_REGISTRY_ENDPOINTS."


class CertificateInvalid(SourceError):
    """TLS verification failed. *reason* ends the sentence "The certificate of the registry …"."""

    code = "CERTIFICATE_INVALID"
    hint = "Ask the registry's operator to fix its certificate."

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The certificate of the registry {registry} {reason}", hint=hint, registry=registry)


class AddressNotAllowed(SourceError):
    code = "ADDRESS_NOT_ALLOWED"
    status = 422
    hint = "If the mirror may read from this network, add it to MIRROR_ALLOWED_NETWORKS."

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"Connecting to {host} is not allowed: {reason}", reason=reason)


class RealmNotAllowed(SourceError):
    """The registry names a token server that may not receive its credentials."""

    code = "REALM_NOT_ALLOWED"
    hint = "If this token server belongs to the registry, add it to MIRROR_TOKEN_REALMS as 'registry=host'."

    def __init__(self, registry: str, realm_host: str, reason: str, *, hint: str | None = None) -> None:
        message = f"The registry {registry} sends clients to the token server {quoted(realm_host)}, which {reason}"
        super().__init__(message, hint=hint, registry=registry)


class CredentialsUnavailable(SourceError):
    code = "CREDENTIALS_UNAVAILABLE"
    hint = "Check MIRROR_DOCKER_CONFIG and its credential helper on the worker's host."

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        message = f"The credentials for {registry} cannot be read: {reason}"
        super().__init__(message, hint=hint, reason=reason, registry=registry)


class Unauthorized(SourceError):
    code = "UNAUTHORIZED"
    hint = "Check that the image exists, and that the credentials in MIRROR_DOCKER_CONFIG are correct and not expired."

    def __init__(self, registry: str, repository: str, *, with_credentials: bool) -> None:
        message = f"The registry {registry} wants credentials for '{repository}', but none are configured"
        if with_credentials:
            message = f"The registry {registry} refuses our credentials for '{repository}'"
        super().__init__(message, registry=registry)


class Denied(SourceError):
    code = "DENIED"
    hint = "Ask the registry's operator for read access, or use other credentials."

    def __init__(self, registry: str, repository: str) -> None:
        super().__init__(f"The registry {registry} does not allow reading '{repository}'", registry=registry)


class ManifestUnknown(SourceError):
    """The source has no such tag or digest. To a client without a login, a private image may look the same."""

    code = "MANIFEST_UNKNOWN"
    hint = (
        "Check the repository and the tag or digest. If the image is private, credentials may be missing: add them to "
        "MIRROR_DOCKER_CONFIG."
    )
    _LOGGED_IN_HINT = (
        "Check the repository and the tag or digest. It may have been deleted at the source, or the credentials in "
        "MIRROR_DOCKER_CONFIG may not allow reading it."
    )
    _CHILD_HINT = "The index at the source is incomplete. Push the image there again with all of its platforms."
    is_child = False
    """Whether an index at the source lists the missing manifest."""

    def __init__(self, reference: str, *, logged_in: bool = False) -> None:
        super().__init__(f"The source has no image '{reference}'", hint=self._LOGGED_IN_HINT if logged_in else None)

    @classmethod
    def of_child(cls, digest: str, platform: str, index: str) -> Self:
        """Return the error for a missing entry of *index*. *platform* is empty if the index names none."""
        error = cls(digest)
        whose = f" for {platform}" if platform else " (no named platform)"
        error.message = error.reason = f"The source has no manifest {digest}{whose}, but the index '{index}' lists it"
        error.args = (error.message,)
        error.hint, error.is_child = cls._CHILD_HINT, True
        return error


class PlatformUnknown(SourceError):
    """The image has none of the platforms that the job asks for. *found* are those that it has."""

    code = "PLATFORM_UNKNOWN"
    hint = "Choose a platform that the image has, or leave 'platforms' out to mirror all of them."

    def __init__(self, image: str, wanted: Sequence[str], found: Sequence[str]) -> None:
        has = listed(found) or "no platform at all"
        super().__init__(f"The image '{image}' has none of {listed(wanted)}. It has {has}")


class BlobUnknown(SourceError):
    code = "BLOB_UNKNOWN"
    hint = "The image at the source is damaged. Push it there again."

    def __init__(self, registry: str, repository: str, digest: str) -> None:
        message = f"The registry {registry} does not have the blob {digest}, which an image in '{repository}' needs"
        super().__init__(message, registry=registry)


class ForeignLayerUnavailable(SourceError):
    """Neither the source nor a URL delivers a foreign layer that the job asks for.

    *failures* are the host of each URL, and why it failed. Empty if the layer names no usable URL.
    """

    code, retryable = "FOREIGN_LAYER_UNAVAILABLE", True
    hint = "Set 'foreign_layers' to 'when-held' to mirror the image without the layer, or push the layer to the source."

    def __init__(self, digest: str, failures: Sequence[tuple[str, str]]) -> None:
        tried = listed(f"{host}: {reason}" for host, reason in failures)
        why = f"its URLs fail: {tried}" if failures else "it names no URL that the mirror may use"
        super().__init__(f"The source does not serve the foreign layer {digest}, and {why}")


class RepositoryUnknown(SourceError):
    """The source has no such repository, or none at all below a prefix."""

    code = "NAME_UNKNOWN"
    hint = (
        "Check the name. If it is private, credentials may be missing or may not allow reading it: see "
        "MIRROR_DOCKER_CONFIG."
    )

    def __init__(self, registry: str, name: str) -> None:
        super().__init__(f"The registry {registry} does not know the repository {quoted(name)}", registry=registry)


_NAME_THEM: Final = "Name the repositories in `images`, with one entry for each."


class ListingUnsupported(SourceError):
    """The registry has no list of its repositories that the mirror can read."""

    code = "LISTING_UNSUPPORTED"
    hint = _NAME_THEM

    def __init__(self, registry: str, reason: str, *, hint: str | None = None) -> None:
        message = f"The repositories of {registry} cannot be listed: {reason}"
        super().__init__(message, hint=hint, reason=reason, registry=registry)


class ListingDenied(SourceError):
    """The registry has a list of its repositories, but does not show it to us."""

    code = "LISTING_DENIED"
    hint = f"Many registries show it to administrators only. {_NAME_THEM}"

    def __init__(self, registry: str, *, with_credentials: bool) -> None:
        message = f"The registry {registry} wants credentials to list its repositories, but none are configured"
        if with_credentials:
            message = f"The registry {registry} does not allow our credentials to list its repositories"
        super().__init__(message, registry=registry)


class ListingTooLarge(SourceError):
    """A list of tags, repositories or referrers is longer than the mirror reads. *what* names the list."""

    code = "LISTING_TOO_LARGE"
    hint = "Name a longer prefix of the repositories, or name the images in `images`, with one entry for each."

    def __init__(self, registry: str, what: str, limit: int, unit: str) -> None:
        message = f"The list of {what} has more than {limit} {unit}, the most that are read"
        super().__init__(message, registry=registry)


class AnswerTruncated(SourceError):
    """The connection closed before the end of the response."""

    code, retryable = "ANSWER_TRUNCATED", True
    hint = "The connection was cut, or the registry is broken. Try again."
    transient = True

    def __init__(self, registry: str, what: str) -> None:
        super().__init__(f"The registry {registry} ended its response too early for {what}", registry=registry)


class AnswerTooLarge(SourceError):
    code = "ANSWER_TOO_LARGE"
    hint = "No correct registry sends a response of this size. Check what is served there."

    def __init__(self, registry: str, what: str, limit: int) -> None:
        super().__init__(f"The registry {registry} sent more than {limit} bytes for {what}", registry=registry)
