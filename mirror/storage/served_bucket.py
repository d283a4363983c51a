"""The bucket as pulls read it: with presigned URLs, and with requests that cost a fraction of the CPU.

A request of botocore's client takes over a ms of CPU. Here a request is signed with botocore's signer and sent with
botocore's HTTP session, once. If S3 returns anything else than the object, botocore's client asks again, because it can
tell what is wrong. An S3 that does not answer at all is not asked again.
"""

from __future__ import annotations

from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionClosedError
from botocore.response import StreamingBody
from cachetools import TTLCache

from mirror.storage.bucket import Bucket
from mirror.storage.object_stream import ByteRange, ObjectStream
from mirror.storage.s3 import S3Clients, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_VALID_SECONDS: Final = 20 * 60
_REUSED_SECONDS: Final = 5 * 60
"""So a client can use a URL for a quarter of an hour at least. One that is signed with temporary credentials ends with
them. botocore replaces those ten minutes before they expire (`RefreshableCredentials`)."""
_MOST_URLS: Final = 10_000
"""Of up to 2 kB each."""
_SAFE: Final = "/~"
"""Characters of a key that stand for themselves in a URL, like letters and digits (S3 API, "Object key names")."""


class ServedBucket(Bucket):
    """Reads what pulls need. Safe to share between threads.

    *public_endpoint* is where clients reach S3, if that is another address.
    """

    def __init__(self, bucket: Bucket, public_endpoint: str | None) -> None:
        super().__init__(bucket.clients, bucket.name, prefix=bucket.prefix, disk=bucket.disk)
        self._own = _Signer(bucket.clients, bucket.name, None)
        self._public = _Signer(bucket.clients, bucket.name, public_endpoint) if public_endpoint else self._own
        self._urls: TTLCache[str, str] = TTLCache(_MOST_URLS, _REUSED_SECONDS)
        self._lock = Lock()

    def presigned_url(self, key: str) -> str:
        """Return a URL that reads the object for 15 to 20 minutes, at the public endpoint if one is set.

        Sends no request. The URL does not depend on who asks: the caller checks that first, each time.
        """
        with self._lock:
            url = self._urls.get(key)
        if url is None:
            with translated(f"sign a URL for {key}"):
                url = self._public.presigned_url(self.prefix + key)
            with self._lock:
                self._urls[key] = url
        return url

    def size(self, key: str) -> int | None:
        """As `Bucket.size`."""
        with translated(f"look up {key}"):
            response = self._send("HEAD", key)
        if response is not None:
            response.raw.drain_conn()  # a HEAD has no body, so this only gives the connection back
            if response.status_code == 404:
                return None
            given = response.headers.get("Content-Length", "")
            if response.status_code == 200 and given.isdecimal():
                return int(given)
        return super().size(key)

    def open(
        self, key: str, start: int = 0, length: int | None = None, *, client: S3Client | None = None
    ) -> ObjectStream | None:
        """As `Bucket.open`."""
        wanted = ByteRange(start, length)
        response = None
        if client is None:
            with translated(f"read {key}"):
                response = self._send("GET", key, wanted.headers)
        given = response.headers.get("Content-Length", "") if response else ""
        if response is None or response.status_code not in (200, 206) or not given.isdecimal():
            if response is not None:
                response.raw.close()
            return super().open(key, start, length, client=client)
        body = StreamingBody(response.raw, int(given))
        return ObjectStream(
            key, body, wanted, given=int(given), content_range=response.headers.get("Content-Range", "")
        )

    def _send(self, method: str, key: str, headers: dict[str, str] | None = None) -> Any:
        """Send a request once. Return None if S3 closed the connection: it may have been idle for long."""
        request = self._own.signed(method, self.prefix + key, headers or {})
        try:
            return self.clients.http_session().send(request.prepare())
        except ConnectionClosedError:
            return None


class _Signer:
    """Signs requests to one endpoint, with the credentials that botocore has at that moment (Signature Version 4)."""

    def __init__(self, clients: S3Clients, bucket: str, endpoint: str | None) -> None:
        self._clients = clients
        self._bucket = bucket
        self._endpoint = endpoint

    def presigned_url(self, key: str) -> str:
        request = AWSRequest("GET", self._base + quote(key, _SAFE))
        S3SigV4QueryAuth(self._clients.credentials(), "s3", self._region, expires=_VALID_SECONDS).add_auth(request)
        return str(request.url)

    def signed(self, method: str, key: str, headers: dict[str, str]) -> AWSRequest:
        request = AWSRequest(method, self._base + quote(key, _SAFE), headers, stream_output=True)
        S3SigV4Auth(self._clients.credentials(), "s3", self._region).add_auth(request)
        return request

    @cached_property
    def _base(self) -> str:
        """The URL of the bucket, with a slash at the end. botocore's client knows how this endpoint names buckets."""
        url = self._clients.client(endpoint=self._endpoint).generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": "key"}
        )
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('key')}"

    @cached_property
    def _region(self) -> str:
        return self._clients.client(endpoint=self._endpoint).meta.region_name
