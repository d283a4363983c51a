"""Read a foreign layer from the URL of its publisher.

The author of a manifest chooses its URLs, so no URL is trusted:

- No request has a login, whatever the server asks for. CVE-2020-15157 was about one that had the registry's.
- Every connection goes through the address guard, and so does every redirect.
- Plain HTTP is used only for a host that MIRROR_INSECURE_REGISTRIES names.
- A host has its own limits. They are counted by host and port, so that no manifest can spoil those of a registry, whose
  name has no default port.

Ranges, sizes and stalls are handled as for the blobs of a registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirror.errors import MirrorError, PlainHttpNotAllowed, SourceFailed
from mirror.http.deadlines import shared_deadline
from mirror.http.redirects import Redirects
from mirror.http.response import Response
from mirror.http.transport import Origin
from mirror.oci.descriptor import Descriptor
from mirror.registry.blobs import FOUND, BlobRange, BlobResponse, is_unusable
from mirror.registry.endpoints import Endpoints
from mirror.registry.response_errors import status_error
from mirror.registry.retry import Retries
from mirror.registry.throttle import ConcurrencyLimiter, RequestSlot, Sleep


@dataclass(frozen=True, slots=True)
class _Host:
    """The host and port of a URL. Limits and errors name it where they name a registry otherwise."""

    registry: str

    def __str__(self) -> str:
        return self.registry


class Publishers:
    """Opens ranges of blobs at URLs. Safe to share between threads."""

    def __init__(
        self,
        endpoints: Endpoints,
        redirects: Redirects,
        limiter: ConcurrencyLimiter,
        retries: Retries,
        sleep: Sleep,
    ) -> None:
        self._endpoints = endpoints
        self._redirects = redirects
        self._limiter = limiter
        self._retries = retries
        self._sleep = sleep

    def open_url(self, url: str, blob: Descriptor, wanted: BlobRange) -> BlobResponse:
        """Open a range of *blob* at *url*, in a few attempts.

        The response holds a slot until its last byte is read or it is closed. Raises SourceFailed for a status that is
        no success, PlainHttpNotAllowed, SizeInvalid, and what every request raises.
        """
        host = _Host(self._permitted(url).authority)
        return self._retries.run(host, lambda: self._open_once(url, host, blob, wanted))

    def _permitted(self, url: str) -> Origin:
        try:
            origin = Origin.of(url)
        except ValueError:
            raise SourceFailed("of a foreign layer", "its URL has no plain host") from None
        if not self._endpoints.permits_anyone(origin):
            hint = f"If plain HTTP is acceptable there, add '{origin.authority}' to MIRROR_INSECURE_REGISTRIES."
            raise PlainHttpNotAllowed(origin.authority, "its URL is without TLS", hint=hint)
        return origin

    def _open_once(self, url: str, host: _Host, blob: Descriptor, wanted: BlobRange) -> BlobResponse:
        slot = RequestSlot(self._limiter, host.registry, "blobs", self._sleep)
        try:
            with shared_deadline():
                first = response = self._get(url, host, wanted.headers(blob))
                if is_unusable(first, blob, wanted):
                    response = self._get(url, host, {})
            held = _found(response, host, blob, wanted)
            if response is not first:
                self._redirects.stop_ranges(first)
            return BlobResponse(response, blob, held, slot)
        except BaseException as error:
            slot.failed(error)
            raise

    def _get(self, url: str, host: _Host, headers: Mapping[str, str]) -> Response:
        final = self._redirects.follow(
            "GET", url, headers, None, server=host.registry, permits=self._endpoints.permits_anyone
        )
        return final.response


def _found(response: Response, host: _Host, blob: Descriptor, wanted: BlobRange) -> BlobRange:
    """Return the range in the body. Closes the response if it raises."""
    try:
        if response.status not in FOUND:
            raise _refusal(response, host, blob)
        return wanted.found_in(response, blob)
    except BaseException:
        response.close()
        raise


def _refusal(response: Response, host: _Host, blob: Descriptor) -> MirrorError:
    if response.status in (401, 403):
        return SourceFailed(host.registry, f"it answered {response.status}, and the mirror sends no login to a URL")
    return status_error(host.registry, response.status, response.headers, subject="it", what=f"the layer {blob.digest}")
