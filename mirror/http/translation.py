"""The errors of urllib3, http.client and ssl in our terms, each with its own reason.

Their texts are never repeated: they print presigned URLs. A registry that answers is never called unreachable.
"""

from __future__ import annotations

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
    SourceUnreachable,
    TlsExpected,
)

_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}
)
"""What OpenSSL calls an answer in plain text. The name depends on its version and on the answer's first bytes."""
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
"""By OpenSSL's X509_V_ERR_ codes: what is wrong with a certificate, and what to do."""


class ProtocolViolation(HTTPException):
    """An answer that breaks HTTP. *reason* completes "The registry … failed:"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def translated(registry: str, what: str, url: str = "") -> Iterator[None]:
    """Raise what the block raises in our terms. *url* is what was requested, if the block makes a connection."""
    try:
        yield
    except MirrorError:
        raise
    except (HTTPError, OSError, ValueError, HTTPException) as error:
        raise translation(error, registry, what, url) from None


def wants_tls(registry: str, url: str) -> TlsExpected:
    """The error for a server that was spoken to in plain HTTP and speaks TLS."""
    place = _place(url)
    if registry == place or registry == place.removesuffix(":80"):
        hint = f"Remove '{registry}' from MIRROR_INSECURE_REGISTRIES."
    else:
        hint = f"Ask {place} by https://, in MIRROR_REGISTRY_ENDPOINTS or where the registry names it."
    return TlsExpected(registry, f"it was spoken to in plain HTTP at {place}, and it speaks TLS there", hint=hint)


def translation(error: Exception, registry: str, what: str, url: str) -> MirrorError:
    """What an error of a library is in our terms."""
    causes = [error, *(cause for cause in error.args if isinstance(cause, Exception))]
    for cause in causes:
        if found := _broken_protocol(cause, registry, what, url):
            return found
    if isinstance(error, SSLError):
        return _tls_failure(causes[-1], registry, url)
    timed_out = isinstance(error, ConnectTimeoutError | ReadTimeoutError | TimeoutError)
    hint = None
    if any(isinstance(cause, ConnectionError) for cause in causes) and url.startswith("http://"):
        hint = f"Check that {_place(url)} speaks plain HTTP: a server that wants TLS may hang up like this."
    return SourceUnreachable(registry, _reason(error), timed_out=timed_out, hint=hint)


def _broken_protocol(cause: Exception, registry: str, what: str, url: str) -> MirrorError | None:
    """The error for an answer that came and breaks HTTP."""
    if isinstance(cause, IncompleteRead | InvalidChunkLength):
        return AnswerTruncated(registry, what)
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return _no_status_line(str(cause.args[0]), registry, what, url)
    reason = _violation(cause)
    return SourceFailed(registry, reason) if reason else None


def _violation(cause: Exception) -> str | None:
    """What rule of HTTP an answer breaks, None if it is not about that. http.client has no types for some."""
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
    if type(cause) is HTTPException and "headers" in str(cause):
        return "it sent more than 100 header lines"
    return None


def _no_status_line(line: str, registry: str, what: str, url: str) -> MirrorError:
    """The error for an answer that does not begin with a status line."""
    if _TLS_RECORD.match(line):
        return wants_tls(registry, url)
    if _CUT_STATUS_LINE.fullmatch(line):
        return AnswerTruncated(registry, what)
    return SourceFailed(registry, "what it answered is not HTTP", hint="Check the registry's name and port.")


def _tls_failure(cause: Exception, registry: str, url: str) -> MirrorError:
    if isinstance(cause, ssl.SSLCertVerificationError):
        unknown = ("is not valid for this name, or not trusted", _MAKE_TRUSTED)
        reason, hint = _CERTIFICATE.get(cause.verify_code, unknown)
        return CertificateInvalid(_whose(registry, url), reason, hint=hint)
    name = (cause.reason if isinstance(cause, ssl.SSLError) else None) or ""
    allow = _how_to_allow(registry, url)
    if name in _NO_TLS:
        return PlainHttpNotAllowed(registry, f"{_place(url)} speaks plain HTTP, and TLS is expected there", hint=allow)
    if not isinstance(cause, ssl.SSLError):  # urllib3's own check of the name
        reason, hint = _CERTIFICATE[62]
        return CertificateInvalid(_whose(registry, url), reason, hint=hint)
    reason = f"TLS failed ({name.lower().replace('_', ' ')})" if name else "TLS failed"
    return SourceUnreachable(registry, reason, hint=f"Check the name and the port. If it speaks plain HTTP: {allow}")


def _how_to_allow(registry: str, url: str) -> str:
    """How plain HTTP is allowed for the registry, as it would have to be written."""
    place = _place(url)
    if registry == place:
        return f"If plain HTTP is acceptable, add '{registry}' to MIRROR_INSECURE_REGISTRIES."
    if f"{registry}:443" == place:
        return (
            f"If plain HTTP is acceptable, add '{registry}' to MIRROR_INSECURE_REGISTRIES, which asks it on port 80. "
            "For another port write 'host:port', there and in the image's name."
        )
    return (
        f"If plain HTTP is acceptable for {place}, write http:// for it in MIRROR_REGISTRY_ENDPOINTS or have the "
        f"registry name it so, and add '{place}' to MIRROR_INSECURE_REGISTRIES."
    )


def _whose(registry: str, url: str) -> str:
    """The registry, with the place that it led to where that is another."""
    place = _place(url)
    return registry if place.removesuffix(":443") == registry.removesuffix(":443") else f"{registry}, at {place},"


def _place(url: str) -> str:
    """The URL's host and port. Never more of it: its query may be worth a password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectTimeoutError | NewConnectionError):
        return "no connection could be made"
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return "it did not answer in time"
    return "the connection was lost"
