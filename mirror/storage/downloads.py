"""Read objects as clients download them: by a presigned URL, or as a stream.

A pull needs the same few URLs again and again. botocore takes 0.3 ms of CPU to sign one, and a request of its client
takes another ms. So a URL is used for some minutes. This process uses it too, with botocore's own HTTP session. If
S3 returns anything but the object, botocore's client asks once more and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import IO, Final, Self, cast

from botocore.awsrequest import AWSPreparedRequest, HeadersDict
from botocore.exceptions import ConnectionClosedError
from botocore.response import StreamingBody
from cachetools import TTLCache

from mirror.errors import StorageUnavailable
from mirror.storage.s3 import S3Clients, translated

_VALID_SECONDS: Final = 20 * 60
_REUSED_SECONDS: Final = 5 * 60
"""So a client can use a URL for a quarter of an hour at least. One that is signed with temporary credentials ends with
them. botocore replaces those ten minutes before they expire (`RefreshableCredentials`)."""
_MOST_URLS: Final = 10_000
"""Of up to 2 kB each."""
_CHUNK: Final = 2**20
"""Bytes per read: reads of 64 KiB halve the throughput with eight threads (measured)."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes of an object from *start* on, at most *length* of them. Raises ValueError for an impossible range."""

    start: int = 0
    length: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.length is not None and self.length < 1):
            raise ValueError(f"no range starts at {self.start} and has {self.length} bytes")

    @property
    def headers(self) -> dict[str, str]:
        """The header that asks S3 for the range. Empty for the whole object."""
        if self.start == 0 and self.length is None:
            return {}
        return {"Range": f"bytes={self.start}-{'' if self.length is None else self.start + self.length - 1}"}

    def size_of_object(self, given: int, content_range: str) -> int | None:
        """Return the size of the whole object, if *given* bytes of *content_range* are what was asked for.

        *content_range* is a header such as ``bytes 5-9/100``.
        """
        if not self.headers:
            return given
        unit, _, rest = content_range.partition(" ")
        span, _, size = rest.partition("/")
        if unit != "bytes" or span != f"{self.start}-{self.start + given - 1}" or not size.isdecimal():
            return None
        is_all = self.length is None or given == min(self.length, int(size) - self.start)
        return int(size) if is_all else None


class ObjectStream:
    """The body of one object, read as it arrives: ``length`` bytes of an object of ``size`` bytes.

    Close it. Closing it early drops the connection. Every read raises StorageUnavailable if the connection fails, or
    ends before ``length`` bytes arrived.
    """

    def __init__(self, key: str, body: StreamingBody, wanted: ByteRange, *, given: int, content_range: str) -> None:
        """*given* is the length of the body. Raises StorageUnavailable if it is not the range that was *wanted*."""
        size = wanted.size_of_object(given, content_range)
        if size is None:
            body.close()
            raise StorageUnavailable(f"read {key}", "S3 answered with another range than asked for")
        self.length = given
        self.size = size
        self._action = f"read {key}"
        self._body = body
        self._left = given

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill *buffer*, all of it except at the end. Return the number of bytes, 0 only at the end."""
        with translated(self._action):
            # The stubs mistake the buffer for a file.
            count = self._body.readinto(cast("IO[bytes]", buffer))
        self._advance(count, len(buffer))
        return count

    def read(self, limit: int) -> bytes:
        """Return *limit* bytes, fewer only at the end."""
        with translated(self._action):
            chunk = self._body.read(limit)
        self._advance(len(chunk), limit)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(_CHUNK):
            yield chunk

    def close(self) -> None:
        self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _advance(self, count: int, wanted: int) -> None:
        """Raise StorageUnavailable if the response ended early. botocore notices only at a read that returns nothing,
        and a caller may never make one.
        """
        if count < min(wanted, self._left):
            raise StorageUnavailable(self._action, "S3 ended its answer too early")
        self._left -= count


class Downloads:
    """The objects of a bucket. Safe to share between threads.

    *open_object* is `Bucket.open`, and *public_endpoint* is where clients reach S3, if that is another address.
    """

    def __init__(
        self,
        clients: S3Clients,
        bucket: str,
        prefix: str,
        public_endpoint: str | None,
        open_object: Callable[[str, int, int | None], ObjectStream | None],
    ) -> None:
        self._clients = clients
        self._bucket = bucket
        self._prefix = prefix
        self._public_endpoint = public_endpoint
        self._open_object = open_object
        self._urls: TTLCache[tuple[str | None, str], str] = TTLCache(_MOST_URLS, _REUSED_SECONDS)
        self._lock = Lock()

    def presigned_url(self, key: str) -> str:
        """Return a URL that reads the object for 15 to 20 minutes, at the public endpoint if one is set.

        Sends no request. The URL does not depend on who asks: the caller checks that first, each time.
        """
        return self._signed(self._public_endpoint, key)

    def open(self, key: str, start: int = 0, length: int | None = None) -> ObjectStream | None:
        """Return the bytes from *start* on, at most *length* of them. None if the object is absent.

        *start* must lie inside the object, or be 0 for an empty one. *length* must be positive.
        """
        wanted = ByteRange(start, length)
        request = AWSPreparedRequest(
            "GET",
            self._signed(None, key),
            HeadersDict(wanted.headers),  # type: ignore[arg-type] # the stubs have another type
            body=None,
            stream_output=True,
        )
        with translated(f"read {key}"):
            try:
                response = self._clients.http_session().send(request)
            except ConnectionClosedError:  # S3 may close a connection that it has kept for long
                return self._open_object(key, start, length)
        given = response.headers.get("Content-Length", "")
        if response.status_code not in (200, 206) or not given.isdecimal():
            response.raw.close()
            with self._lock:
                self._urls.pop((None, key), None)
            return self._open_object(key, start, length)
        body = StreamingBody(response.raw, int(given))
        return ObjectStream(
            key, body, wanted, given=int(given), content_range=response.headers.get("Content-Range", "")
        )

    def _signed(self, endpoint: str | None, key: str) -> str:
        with self._lock:
            url = self._urls.get((endpoint, key))
        if url is None:
            with translated(f"sign a URL for {key}"):
                url = self._clients.client(endpoint=endpoint).generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self._bucket, "Key": self._prefix + key},
                    ExpiresIn=_VALID_SECONDS,
                )
            with self._lock:
                self._urls[endpoint, key] = url
        return url
