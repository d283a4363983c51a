"""Translate the errors of urllib3, http.client and ssl into `mirror.errors`.

The libraries' own texts are never repeated, because they contain presigned URLs. A server that sent a response is never
called unreachable.
"""

from __future__ import annotations

import itertools
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import (
    BadStatusLine,
    HTTPException,
    IncompleteRead,
    LineTooLong,
    RemoteDisconnected,
    UnknownProtocol,
)
from typing import Final
from urllib.parse import urlsplit

import structlog
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidChunkLength,
    InvalidHeader,
    LocationParseError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from mirror.errors import (
    AnswerTruncated,
    CertificateInvalid,
    MirrorError,
    PlainHttpNotAllowed,
    SourceFailed,
    SourceTooSlow,
    SourceUnreachable,
    TlsExpected,
)
from mirror.http.deadlines import Deadline, Interruptible, OnCancel, PendingRequest, waiting_for
from mirror.http.tolerant_response import ProtocolViolation

_ENDED: Final = itertools.count(1)
"""Counts the requests that this process ended at their deadlines."""
_LOG = structlog.get_logger(__name__)
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}
)
"""OpenSSL's names for a plain-text response. Which one depends on its version and on the first bytes."""
_TLS_RECORD: Final = re.compile(r"[\x14-\x17]\x03[\x00-\x04]", re.ASCII)
_CUT_STATUS_LINE: Final = re.compile(r"H(T(T(P(/[^\n]*)?)?)?)?", re.ASCII)
_MAKE_TRUSTED: Final = (
    "Add the certificate of the CA that signed it to the trust store of the workers' host, or set SSL_CERT_FILE for "
    "the workers to a PEM file with all trusted CAs."
)
_CERTIFICATE: Final = {
    9: ("is not valid yet", "Check the clock of the workers' host, then ask the registry's operator."),
    10: ("has expired", "Its operator has to renew it. Check the clock of the workers' host, too."),
    18: ("is self-signed and not trusted", _MAKE_TRUSTED),
    19: ("is signed by a CA that is not trusted", _MAKE_TRUSTED),
    20: ("is signed by a CA that is not trusted", _MAKE_TRUSTED),
    21: ("is signed by a CA that is not trusted, or its intermediate certificate is not sent", _MAKE_TRUSTED),
    23: ("has been revoked", "Its operator has to replace it."),
    62: ("is for another name", "Use the name that the certificate is for, or have the certificate issued anew."),
    64: ("is for another address", "Use the name that the certificate is for, or have the certificate issued anew."),
}
"""OpenSSL's X509_V_ERR_ codes: what is wrong with a certificate, and what to do."""


class ServerFailed(SourceFailed):
    """A 5xx, or its equivalent: the same request may succeed in a moment."""

    def __init__(self, server: str, reason: str, *, overloaded: bool = False) -> None:
        super().__init__(server, reason)
        self.overloaded = overloaded


@contextmanager
def translated(server: str, what: str) -> Iterator[None]:
    """Translate the errors that the block raises.

    *what* names what is being read, for the error's text.
    """
    try:
        yield
    except MirrorError:
        raise
    except (HTTPError, OSError, ValueError, HTTPException) as error:
        raise translation(error, server, what, "") from None


@contextmanager
def waiting_for_server(
    server: str,
    what: str,
    request: PendingRequest,
    on_cancel: OnCancel,
    *,
    url: str = "",
    connection: Interruptible | None = None,
) -> Iterator[None]:
    """Let the block wait for a server within a deadline, and translate its errors.

    The deadline is that of *request*. *url* is what is requested, if the block makes a connection. *connection* is the
    one of a response that has begun.
    """
    with on_cancel(request.cancel), waiting_for(request, connection):
        try:
            yield
        except MirrorError:
            raise
        except (HTTPError, OSError, ValueError, HTTPException) as error:
            if request.deadline.has_passed():
                raise _deadline_exceeded(server, what, request.deadline) from None
            if connection is not None and isinstance(error, ReadTimeoutError):
                raise stalled(server, what, request.deadline) from None
            raise translation(error, server, what, url) from None


def stalled(server: str, what: str, deadline: Deadline) -> SourceTooSlow:
    """Return the error for a body that stopped or is too slow.

    Another connection may deliver it.
    """
    if deadline.has_passed():
        return SourceTooSlow(server, f"it sent next to nothing of {what} for {deadline.seconds:.0f} s")
    return SourceTooSlow(server, f"it stopped in the middle of {what}")


def wants_tls(server: str, url: str) -> TlsExpected:
    """Return the error for a server that was spoken to in plain HTTP and speaks TLS."""
    place = _place(url)
    if server == place or server == place.removesuffix(":80"):
        hint = f"Remove '{server}' from MIRROR_INSECURE_REGISTRIES."
    else:
        hint = f"Ask {place} by https://, in MIRROR_REGISTRY_ENDPOINTS or where the registry names it."
    return TlsExpected(server, f"it was spoken to in plain HTTP at {place}, and it speaks TLS there", hint=hint)


def translation(error: Exception, server: str, what: str, url: str) -> MirrorError:
    """Return the error of `mirror.errors` for an error of a library.

    *url* is empty once the response has begun.
    """
    causes = [error, *(cause for cause in error.args if isinstance(cause, Exception))]
    for cause in causes:
        if found := _broken_protocol(cause, server, what, url):
            return found
    if isinstance(error, SSLError):
        return _tls_failure(causes[-1], server, url)
    timed_out = isinstance(error, ConnectTimeoutError | ReadTimeoutError | TimeoutError)
    hint = None
    if any(isinstance(cause, ConnectionError) for cause in causes) and url.startswith("http://"):
        hint = f"Check that {_place(url)} speaks plain HTTP: a server that wants TLS may hang up like this."
    return SourceUnreachable(server, _reason(error), timed_out=timed_out, hint=hint)


def _deadline_exceeded(server: str, what: str, deadline: Deadline) -> SourceTooSlow:
    """Log and count a request that its deadline ended, and return its error."""
    _LOG.warning(
        "request ended at its deadline",
        registry=server,
        waited_for=what,
        seconds=deadline.seconds,
        ended_so_far=next(_ENDED),
    )
    return SourceTooSlow(server, f"it did not finish its answer within {deadline.seconds:.0f} s", out_of_time=True)


def _broken_protocol(cause: Exception, server: str, what: str, url: str) -> MirrorError | None:
    """Return the error for a response that breaks HTTP, None for any other *cause*."""
    if isinstance(cause, IncompleteRead | InvalidChunkLength):
        return AnswerTruncated(server, what)
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return _no_status_line(str(cause.args[0]), server, what, url)
    reason = _violation(cause)
    return SourceFailed(server, reason) if reason else None


def _violation(cause: Exception) -> str | None:
    """Return which rule of HTTP a response breaks, None if none."""
    if isinstance(cause, ProtocolViolation):
        return cause.reason
    if isinstance(cause, LocationParseError):
        return "it names a URL that cannot be parsed"
    if isinstance(cause, InvalidHeader):
        return "it sent several Content-Length headers that differ"
    if isinstance(cause, LineTooLong):
        kind = str(cause).rpartition("reading ")[2]
        return f"it sent a {kind} longer than 64 KiB"
    if isinstance(cause, UnknownProtocol):
        return "it answered in another version of HTTP than 1.0 or 1.1"
    # http.client has no exception type of its own for this.
    if type(cause) is HTTPException and "headers" in str(cause):
        return "it sent more than 100 header lines"
    return None


def _no_status_line(line: str, server: str, what: str, url: str) -> MirrorError:
    """Return the error for a response that does not begin with a status line."""
    if _TLS_RECORD.match(line):
        return wants_tls(server, url)
    if _CUT_STATUS_LINE.fullmatch(line):
        return AnswerTruncated(server, what)
    return SourceFailed(server, "what it answered is not HTTP", hint="Check the registry's name and port.")


def _tls_failure(cause: Exception, server: str, url: str) -> MirrorError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        unknown = ("is not valid for this name, or not trusted", _MAKE_TRUSTED)
        reason, hint = _CERTIFICATE.get(cause.verify_code, unknown)
        return CertificateInvalid(_shown(server, url), reason, hint=hint)
    name = (cause.reason if isinstance(cause, ssl.SSLError) else None) or ""
    allow = _how_to_allow(server, url)
    if name in _NO_TLS:
        return PlainHttpNotAllowed(server, f"{_place(url)} speaks plain HTTP, and TLS is expected there", hint=allow)
    if not isinstance(cause, ssl.SSLError):  # urllib3's own check of the name
        reason, hint = _CERTIFICATE[62]
        return CertificateInvalid(_shown(server, url), reason, hint=hint)
    reason = f"TLS failed ({name.lower().replace('_', ' ')})" if name else "TLS failed"
    return SourceUnreachable(server, reason, hint=f"Check the name and the port. If it speaks plain HTTP: {allow}")


def _how_to_allow(server: str, url: str) -> str:
    """Return how to allow plain HTTP for the server, as the settings must spell it."""
    place = _place(url)
    if server == place:
        return f"If plain HTTP is acceptable, add '{server}' to MIRROR_INSECURE_REGISTRIES."
    if f"{server}:443" == place:
        return (
            f"If plain HTTP is acceptable, add '{server}' to MIRROR_INSECURE_REGISTRIES, which asks it on port 80. "
            "For another port write 'host:port', there and in the image's name."
        )
    return (
        f"If plain HTTP is acceptable for {place}, write http:// for it in MIRROR_REGISTRY_ENDPOINTS or have the "
        f"registry name it so, and add '{place}' to MIRROR_INSECURE_REGISTRIES."
    )


def _shown(server: str, url: str) -> str:
    """Return the server's name, with the host and port that it led to if they differ."""
    place = _place(url)
    return server if place.removesuffix(":443") == server.removesuffix(":443") else f"{server}, at {place},"


def _place(url: str) -> str:
    """Return only the URL's host and port: its query may be as secret as a password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectTimeoutError | NewConnectionError):
        return "no connection could be made"
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return "it did not answer in time"
    return "the connection was lost"
