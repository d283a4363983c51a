"""boto3's clients, set up for moving blobs: measured, explicit, and deaf to proxy variables."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, Literal

import boto3
import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp

from mirror import __version__
from mirror.storage.s3_failures import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 30.0
_ATTEMPTS: Final = 3
_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request may take to connect and then to answer, in seconds, and how often it is tried."""

    connect: float = CONNECT_TIMEOUT
    read: float = READ_TIMEOUT
    attempts: int = _ATTEMPTS


class S3Clients:
    """One client per endpoint and patience, made when first needed.

    boto3's clients may be shared by threads, but a session may not make two at once (boto3 guide, "Multithreading").
    Neither survives a fork with connections open, so a child process closes what it inherited and opens its own.
    Credentials come from boto3's own chain, in order: environment, shared files, container, instance.
    """

    def __init__(self, region: str, endpoint: str | None) -> None:
        self._region = region
        self._endpoint = endpoint
        self._session = boto3.session.Session(botocore_session=_session())
        self._lock = threading.Lock()
        self._clients: dict[tuple[str | None, Patience], S3Client] = {}
        _EVERY.add(self)

    def client(self, patience: Patience, endpoint: str | None = None) -> S3Client:
        """The client for *endpoint* (default: the settings' one)."""
        wanted = (endpoint or self._endpoint, patience)
        with self._lock:
            if wanted not in self._clients:
                with translated("set up its S3 client"):
                    self._clients[wanted] = self._session.client(
                        "s3",
                        region_name=self._region,
                        endpoint_url=wanted[0],
                        config=_config(patience, addressing="path" if wanted[0] else "auto"),
                    )
            return self._clients[wanted]

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def close_connections(self) -> None:
        """The clients, dear to make, stay usable."""
        for client in self._clients.values():
            client.close()

    def close_inherited(self) -> None:
        """In a child process: close the parent's connections on this side."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self.close_connections()


_EVERY: Final[weakref.WeakSet[S3Clients]] = weakref.WeakSet()


def _after_fork() -> None:
    for clients in _EVERY:
        clients.close_inherited()


os.register_at_fork(after_in_child=_after_fork)


def _session() -> botocore.session.Session:
    """One whose clients read times by their notation; botocore tries all notations there are, which takes 0.1 ms, and a
    page of a listing has a thousand times.
    """
    session = botocore.session.get_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return session


def _moment(text: str) -> datetime:
    """RFC 3339, as in S3's bodies, or RFC 9110, as in its headers; whatever else a server sends is botocore's to read,
    and raises ValueError if it cannot.
    """
    try:
        return parsedate_to_datetime(text) if text[3:4] == "," else datetime.fromisoformat(text)
    except ValueError:
        return parse_timestamp(text)


def _config(patience: Patience, *, addressing: Literal["path", "auto"]) -> Config:
    """Upload throughput rests on three of these: unsigned payloads (over http too) and both ``when_required``.

    The defaults hash every body with SHA-256 for its signature and once more for a checksum; we send our own checksum
    with every write. Measured: 503 MB/s with the defaults, 1 260 to 1 670 without. A sixth of a small request's CPU was
    botocore making up its name anew, and looking at the types of parameters that mypy has looked at.
    """
    return Config(
        user_agent=f"image-mirror/{__version__}",
        parameter_validation=False,
        signature_version="s3v4",
        s3={"payload_signing_enabled": False, "addressing_style": addressing},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": patience.attempts},
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        proxies={},  # an empty mapping, unlike None, keeps botocore from reading HTTP_PROXY
    )
