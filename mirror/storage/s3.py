"""boto3's S3 clients, set up for moving blobs, and the errors that S3 and its libraries raise, as the mirror's own.

Of a vendor's error only S3's code (``AccessDenied``) is passed on, and only if it looks like one. The texts of these
errors hold presigned URLs, keys and hosts.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.httpsession import URLLib3Session
from botocore.parsers import ResponseParserError
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

from mirror import __version__
from mirror.errors import MirrorError, StorageFull, StorageRefused, StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class UploadGone(StorageUnavailable):
    """S3 does not know the upload, or a part of it: aborted, expired, or lost with the server. Begin the blob again."""


class InternalFailure(StorageUnavailable):
    """S3 answered 500. It did not do what it was asked, and may well do it at the next attempt."""


class ResponseLate(StorageUnavailable):
    """S3 was sent a whole request and did not answer in time. It may still do what it was asked."""


DISK_FULL: Final = "its disk is full"
_QUOTA_FULL: Final = "its quota is used up"
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}", re.ASCII)
_TRANSIENT: Final = frozenset(
    {
        "BadDigest",  # the bytes were changed on their way
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_TRANSIENT_STATUS: Final = frozenset({408, 409, 429})
_GONE: Final = frozenset({"InvalidPart", "NoSuchUpload"})
_FULL: Final = {
    "InsufficientStorage": DISK_FULL,
    "StorageFull": DISK_FULL,
    "XMinioStorageFull": DISK_FULL,
    "QuotaExceeded": _QUOTA_FULL,
    "XMinioAdminBucketQuotaExceeded": _QUOTA_FULL,
}
_FULL_STATUS: Final = 507
_INTERNAL_FAILURE: Final = 500
_FULL_TEXT: Final = re.compile("no space left|disk (is )?full|insufficient storage|storage.{0,30} full", re.IGNORECASE)
"""What servers write into the message of a plain 500. The message is searched, never passed on."""
_LIBRARY_ERRORS: Final[
    tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[StorageUnavailable | StorageRefused], str], ...]
] = (
    ((NoCredentialsError, PartialCredentialsError), StorageRefused, "no complete S3 credentials are configured"),
    ((CredentialRetrievalError, MetadataRetrievalError), StorageUnavailable, "the S3 credentials could not be fetched"),
    (SSLError, StorageUnavailable, "no TLS connection could be made; check the endpoint's certificate"),
    (ReadTimeoutError, ResponseLate, "S3 did not answer in time"),
    (ConnectTimeoutError, StorageUnavailable, "S3 did not answer in time"),
    (EndpointConnectionError, StorageUnavailable, "S3 cannot be reached"),
    ((BotoConnectionError, HTTPClientError, HTTPError, OSError), StorageUnavailable, "the connection to S3 was lost"),
    (IncompleteReadError, StorageUnavailable, "S3 ended its answer too early"),
    (ResponseParserError, StorageUnavailable, "the endpoint's answer is not S3's"),
)
"""Kinds of errors of boto3 and urllib3, what is raised for them, and why."""
_CONNECT_TIMEOUT: Final = 5.0
_READ_TIMEOUT: Final = 30.0
_PULL_CONNECT_TIMEOUT: Final = 3.0
_PULL_READ_TIMEOUT: Final = 10.0
_ATTEMPTS: Final = 3
_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Seconds that one request may take to connect and then to wait for a response, and how often it is tried."""

    connect: float = _CONNECT_TIMEOUT
    read: float = _READ_TIMEOUT
    attempts: int = _ATTEMPTS

    @classmethod
    def of(cls, timeout: float | None, *, retries: bool = True) -> RequestLimits:
        """Give half of *timeout* to connecting and half to each wait for a response. None: the usual timeouts."""
        connect, read = (_CONNECT_TIMEOUT, _READ_TIMEOUT) if timeout is None else (timeout / 2, timeout / 2)
        return cls(connect, read, _ATTEMPTS if retries else 1)


_USUAL: Final = RequestLimits()


class S3Clients:
    """One client per endpoint and limits, made when it is first needed. Proxy variables of the environment are ignored.

    boto3's clients may be shared by threads, but a session may not make two at once (boto3 guide, "Multithreading").
    Neither survives a fork with open connections, so a child process closes what it inherited and opens its own.
    Credentials come from boto3's own chain, in order: environment, shared files, container, instance.
    """

    def __init__(self, region: str, endpoint: str | None) -> None:
        self._region = region
        self._endpoint = endpoint
        self._botocore = _session()
        self._session = boto3.session.Session(botocore_session=self._botocore)
        self._lock = threading.Lock()
        self._clients: dict[tuple[str | None, RequestLimits], S3Client] = {}
        self._http: URLLib3Session | None = None
        _EVERY.add(self)

    def client(self, limits: RequestLimits = _USUAL, endpoint: str | None = None) -> S3Client:
        """Return the client for *endpoint*, which is the one of the settings by default."""
        wanted = (endpoint or self._endpoint, limits)
        with self._lock:
            if wanted not in self._clients:
                with translated("set up its S3 client"):
                    self._clients[wanted] = self._session.client(
                        "s3",
                        region_name=self._region,
                        endpoint_url=wanted[0],
                        config=_config(limits, addressing="path" if wanted[0] else "auto"),
                    )
            return self._clients[wanted]

    def credentials(self) -> Credentials:
        """Return the credentials of this moment. Temporary ones are replaced in time. Raises NoCredentialsError."""
        found = self._botocore.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found

    def http_session(self) -> URLLib3Session:
        """Return botocore's HTTP session, for presigned URLs. It sends each request once."""
        with self._lock:
            if self._http is None:
                options: dict[str, Any] = {  # the stubs do not know paths of CA bundles, and pairs of timeouts
                    "verify": self._botocore.get_config_variable("ca_bundle")
                    or os.environ.get("REQUESTS_CA_BUNDLE")
                    or True,
                    "timeout": (_PULL_CONNECT_TIMEOUT, _PULL_READ_TIMEOUT),
                }
                self._http = URLLib3Session(max_pool_connections=_CONNECTIONS, **options)
            return self._http

    def close(self) -> None:
        with self._lock:
            self.close_connections()
            self._clients.clear()

    def close_connections(self) -> None:
        """Close all connections and keep the clients, which are slow to make."""
        for client in self._clients.values():
            client.close()
        if self._http is not None:
            self._http.close()

    def close_inherited(self) -> None:
        """Close the parent's connections on this side, in a child process."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self.close_connections()


_EVERY: Final[weakref.WeakSet[S3Clients]] = weakref.WeakSet()


def _after_fork() -> None:
    for clients in _EVERY:
        clients.close_inherited()


os.register_at_fork(after_in_child=_after_fork)


def _session() -> botocore.session.Session:
    """Make a session whose clients parse times quickly.

    botocore tries all notations that exist, which takes 0.1 ms. A page of a listing has a thousand times.
    """
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    return session


def _parse_time(text: str) -> datetime:
    """Parse RFC 3339, as in S3's bodies, or RFC 9110, as in its headers. The rest is botocore's. Raises ValueError."""
    try:
        return parsedate_to_datetime(text) if text[3:4] == "," else datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)


def _config(limits: RequestLimits, *, addressing: Literal["path", "auto"]) -> Config:
    """Configure a client. Three of these make uploads fast: unsigned payloads, over http too, and both `when_required`.

    The defaults hash every body with SHA-256 for its signature, and once more for a checksum. Every write has a
    checksum of our own already. Measured: 503 MB/s with the defaults, 1 260 to 1 670 MB/s without. A fixed user agent
    and no validation of parameters, which mypy does, save a sixth of a small request's CPU.
    """
    return Config(
        user_agent=f"image-mirror/{__version__}",
        parameter_validation=False,
        signature_version="s3v4",
        s3={"payload_signing_enabled": False, "addressing_style": addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": limits.attempts},
        connect_timeout=limits.connect,
        read_timeout=limits.read,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        proxies={},  # an empty mapping, unlike None, keeps botocore from reading HTTP_PROXY
    )


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise StorageUnavailable, StorageFull, UploadGone or StorageRefused for what S3 and its libraries raise.

    *action* completes "The bucket could not …".
    """
    try:
        yield
    except ClientError as error:
        raise _from_response(action, error) from None
    except (BotoCoreError, ResponseParserError, HTTPError, OSError) as error:
        raise _from_library(action, error) from None


def error_code(error: ClientError) -> str:
    """Return S3's code for the error (``NoSuchKey``), or ``HTTP 404`` where the response has no body with a code."""
    code = error.response.get("Error", {}).get("Code", "")
    return code if _CODE.fullmatch(code) else f"HTTP {_status(error) or 'without status'}"


def _status(error: ClientError) -> int:
    """Return the HTTP status of the response, 0 if it has none."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _from_response(action: str, error: ClientError) -> MirrorError:
    code, status = error_code(error), _status(error)
    if code in _GONE:
        return UploadGone(action, code)
    if code in _FULL or status == _FULL_STATUS:
        return StorageFull(action, _FULL.get(code, DISK_FULL))
    if status >= 500 and _FULL_TEXT.search(error.response.get("Error", {}).get("Message", "")):
        return StorageFull(action, DISK_FULL)
    if status == _INTERNAL_FAILURE:
        return InternalFailure(action, code)
    if code in _TRANSIENT or status in _TRANSIENT_STATUS or status >= 500:
        return StorageUnavailable(action, code)
    return StorageRefused(action, code)


def _from_library(action: str, error: Exception) -> MirrorError:
    for kinds, translation, reason in _LIBRARY_ERRORS:
        if isinstance(error, kinds):
            return translation(action, reason)
    return StorageRefused(action, f"the S3 library rejects the request ({type(error).__name__})")
