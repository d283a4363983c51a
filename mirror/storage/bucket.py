"""One S3 bucket under one prefix, in the mirror's terms: keys, bytes, and the mirror's own errors.

Works with any S3. It relies on no conditional write, no checksum trailer and no batch delete. rclone ignores the first
two, and Google's and older Ceph gateways lack the last.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from botocore.exceptions import ClientError
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from mirror.errors import StorageDamaged
from mirror.oci.digest import Digest
from mirror.settings import Settings
from mirror.storage import layout
from mirror.storage.disk import LocalDisk
from mirror.storage.multipart import COMPLETING, Body, MultipartUploads, content_md5, sendable
from mirror.storage.object_stream import BodyIncomplete, ByteRange, ObjectStream
from mirror.storage.s3 import InternalFailure, RequestLimits, S3Clients, error_code, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_SMALLEST_PROBE: Final = 64
_PROBE_TIMEOUT: Final = 10.0
_PAUSES: Final = wait_random_exponential(multiplier=0.1, max=1)


class ListedObject(NamedTuple):
    """An object in a listing. Its ETag is without quotes, and empty where the server returns none."""

    key: str
    etag: str
    size: int
    modified: datetime


class Bucket:
    """The objects of the bucket, with its ``uploads`` in parts, and its ``disk`` if that is here.

    All methods may be called from several threads. Keys are relative to the prefix. Every method raises
    StorageUnavailable if S3 cannot be reached or fails, and StorageRefused if it says no. Every write raises
    StorageFull where there is no space.
    """

    def __init__(
        self,
        clients: S3Clients,
        name: str,
        *,
        prefix: str = "",
        disk: LocalDisk | None = None,
    ) -> None:
        self.name = name
        self.disk = disk or LocalDisk(None)
        self.clients = clients
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uploads = MultipartUploads(clients, name, self.prefix, self.disk, self.size)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ValueError if no bucket is set."""
        if not settings.s3_bucket:
            raise ValueError("MIRROR_S3_BUCKET is not set")
        return cls(
            S3Clients(settings.s3_region, settings.s3_endpoint),
            settings.s3_bucket,
            prefix=settings.s3_prefix,
            disk=LocalDisk(settings.s3_sync_folder),
        )

    def prepare(self, *, commit_timeout: float) -> None:
        """Make the clients, which take 0.2 s each, without a request. For a worker before it forks.

        *commit_timeout* is the timeout of every `put` without retries.
        """
        for limits in (RequestLimits(), COMPLETING, RequestLimits.of(commit_timeout, retries=False)):
            client = self.clients.client(limits)
            client.get_paginator("list_objects_v2")  # the first one searches all of AWS's models, for 15 ms

    def rehearse(self, absent: str) -> None:
        """Look for the bucket, and for a key that is *absent*. For a worker before it forks: no connection stays open.

        A copy begins by looking for what is absent. At the first 404, botocore reads through all errors that it knows
        of S3. So the first such request takes 10 ms of CPU after this, and 23 ms without it (measured).
        """
        try:
            self.ping()
            self.size(absent)
        finally:
            self.clients.close_connections()

    def close(self) -> None:
        """Close the pooled connections. The bucket can be used again afterwards."""
        self.clients.close()

    def ping(self) -> None:
        """Raise unless the bucket exists and may be read."""
        with translated("be reached"):
            self.clients.client().head_bucket(Bucket=self.name)

    def probe(self, size: int = 0) -> None:
        """Write an object of at least *size* random bytes, once and within seconds, to see whether S3 takes writes.

        An object of more than 64 bytes is deleted again.
        """
        self.put(layout.PROBE_KEY, os.urandom(max(size, _SMALLEST_PROBE)), timeout=_PROBE_TIMEOUT, retries=False)
        if size > _SMALLEST_PROBE:
            self.delete([layout.PROBE_KEY])

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, None if it is absent.

        The response to a HEAD does not say what is absent. In a bucket that does not exist, every object is.
        """
        with translated(f"look up {key}"):
            try:
                return self.clients.client().head_object(Bucket=self.name, Key=self.prefix + key)["ContentLength"]
            except ClientError as error:
                if error_code(error) == "HTTP 404":  # a HEAD's response has no body with a code
                    return None
                raise

    def read(self, key: str, limit: int, *, timeout: float | None = None, retries: bool = True) -> bytes | None:
        """Return a small object whole, None if it is absent. Raises StorageDamaged for more than *limit* bytes.

        *timeout* and *retries* are as in `put`. boto3 tries again only until a response begins, so a body that ends
        too early is requested again here. If all attempts of boto3 return 500, it is requested again here, too. In
        rclone a tenth of the reads fail so while another request replaces the object (measured).
        """
        limits = RequestLimits.of(timeout, retries=retries)
        client = None if limits == RequestLimits() else self.clients.client(limits)
        attempts = Retrying(
            retry=retry_if_exception_type((BodyIncomplete, InternalFailure)),
            stop=stop_after_attempt(limits.attempts),
            wait=_PAUSES,
            reraise=True,
        )
        return attempts(self._read_once, key, limit, client)

    def _read_once(self, key: str, limit: int, client: S3Client | None) -> bytes | None:
        stream = self.open(key, client=client)
        if stream is None:
            return None
        with stream:
            if stream.length > limit:
                raise StorageDamaged(key, f"it has {stream.length} bytes, more than the {limit} it may have")
            return stream.read(limit + 1)

    def open(
        self, key: str, start: int = 0, length: int | None = None, *, client: S3Client | None = None
    ) -> ObjectStream | None:
        """Return the bytes from *start* on, at most *length* of them. None if the object is absent.

        *start* must lie inside the object, or be 0 for an empty one. *length* must be positive.
        """
        wanted = ByteRange(start, length)
        header: dict[str, Any] = dict(wanted.headers)
        with translated(f"read {key}"):
            try:
                response = (client or self.clients.client()).get_object(
                    Bucket=self.name, Key=self.prefix + key, **header
                )
            except ClientError as error:
                if error_code(error) == "NoSuchKey":
                    return None
                raise
        return ObjectStream(
            key,
            response["Body"],
            wanted,
            given=response["ContentLength"],
            content_range=response.get("ContentRange", ""),
        )

    def put(
        self,
        key: str,
        body: Body,
        *,
        digest: Digest | None = None,
        timeout: float | None = None,
        retries: bool = True,
    ) -> None:
        """Write an object, all of it or nothing. S3 checks it against *digest* if that is SHA-256, else against an MD5.

        *timeout* bounds one attempt, in seconds: half of it to connect, half for each wait for a response.

        *retries* are boto3's, also after a response that was lost or late. Without them, but with a *timeout*, there is
        another attempt only after a 500, begun in the first quarter of the timeout. So no request is under way after
        1.25 times the timeout. rclone gives a 500 if two requests create one folder at once: for 3 of 19 200 writes.
        """
        if digest and digest.algorithm == "sha256":
            checksum: dict[str, Any] = {"ChecksumSHA256": b64encode(bytes.fromhex(digest.hex)).decode("ascii")}
        else:
            checksum = {"ContentMD5": content_md5(body)}
        client = self.clients.client(RequestLimits.of(timeout, retries=retries))

        def put() -> None:
            with self.disk.writing(f"write {key}", memoryview(body).nbytes):
                client.put_object(Bucket=self.name, Key=self.prefix + key, Body=sendable(body), **checksum)

        _send(put, timeout, retries=retries)

    def delete(self, keys: Iterable[str], *, timeout: float | None = None, retries: bool = True) -> None:
        """Delete the objects in the order given, until the first error. An absent object is no error.

        *timeout* and *retries* are as in `put`.
        """
        client = self.clients.client(RequestLimits.of(timeout, retries=retries))

        def delete(key: str) -> None:
            with translated(f"delete {key}"):
                client.delete_object(Bucket=self.name, Key=self.prefix + key)

        for key in keys:
            _send(partial(delete, key), timeout, retries=retries)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with *prefix*, in S3's order, which is that of the bytes."""
        for page in self.pages(prefix):
            for found in page:
                yield found.key

    def pages(
        self, prefix: str, *, after: str | None = None, timeout: float | None = None
    ) -> Iterator[list[ListedObject]]:
        """Yield what starts with *prefix*, and follows *after* in S3's order, in pages of up to 1 000 objects.

        With a *timeout*, as in `put`, each page is requested once.
        """
        client = self.clients.client(RequestLimits.of(timeout, retries=timeout is None))
        wanted: dict[str, Any] = {} if after is None else {"StartAfter": self.prefix + after}
        paginator = client.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self.name, Prefix=self.prefix + prefix, **wanted))
        while True:
            with translated(f"list {prefix}"):
                page: Any = next(pages, None)
            if page is None:
                return
            yield [_listed_object(found, self.prefix) for found in page.get("Contents", ())]


def _send(request: Callable[[], None], timeout: float | None, *, retries: bool) -> None:
    """Send a request, and again after a 500 where boto3 does not: see `Bucket.put`."""
    if retries or timeout is None:
        request()
        return
    attempts = Retrying(
        retry=retry_if_exception_type(InternalFailure),
        stop=stop_before_delay(timeout / 4),
        wait=_PAUSES,
        reraise=True,
    )
    attempts(request)


def _listed_object(found: Mapping[str, Any], prefix: str) -> ListedObject:
    """A size of -1 and the epoch stand for what an odd server does not list."""
    key, etag = found["Key"].removeprefix(prefix), found.get("ETag", "").strip('"')
    return ListedObject(key, etag, found.get("Size", -1), found.get("LastModified", _EPOCH))
