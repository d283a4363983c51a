"""One S3 bucket under one prefix, spoken to in the mirror's terms: keys, bytes, and the mirror's own errors.

Works with any S3: no conditional write, no checksum trailer and no batch delete is relied upon (Google's and older Ceph
gateways lack the last; rclone ignores the first two).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

from botocore.exceptions import ClientError
from isal import isal_zlib

from mirror.errors import StorageDamaged, StorageFull, StorageUnavailable
from mirror.oci.digest import Digest
from mirror.settings import Settings
from mirror.storage import layout
from mirror.storage.disk import LocalDisk, sync_file_system
from mirror.storage.object_stream import ObjectStream
from mirror.storage.s3_clients import CONNECT_TIMEOUT, Patience, S3Clients
from mirror.storage.s3_failures import DISK_FULL, UploadGone, error_code, error_status, translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import UploadPartOutputTypeDef

__all__ = ["Body", "Bucket", "ListedObject", "ObjectStream", "OpenUpload", "StoredPart", "UploadGone"]

Body = bytes | bytearray | memoryview
_USUAL: Final = Patience()
_COMPLETING: Final = Patience(read=300.0)
"""S3 may take minutes to assemble thousands of parts (CompleteMultipartUpload, API reference)."""
_NOT_FOUND: Final = 404
_MD5_HEX_LENGTH: Final = 32
_PROBE: Final = 64
"""Bytes of a probe that is not asked to be larger."""
_PROBE_TIMEOUT: Final = 10.0


class OpenUpload(NamedTuple):
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


class ListedObject(NamedTuple):
    """An object as a listing tells of it: its ETag is unquoted, and empty where the server tells none."""

    key: str
    etag: str
    size: int
    modified: datetime


class StoredPart(NamedTuple):
    """What S3 needs to be told of a part when the upload is completed: its ETag, and its CRC-32 (base64)."""

    etag: str
    crc32: str


class Bucket:
    """All methods may be called from several threads. Keys are relative to the prefix.

    Every method raises StorageUnavailable if S3 cannot be reached or fails, and StorageRefused if it says no. Every
    write raises StorageFull where there is no space. ``disk`` is the bucket's own, if it is on this machine.
    """

    def __init__(
        self,
        clients: S3Clients,
        name: str,
        *,
        prefix: str = "",
        public_endpoint: str | None = None,
        sync_folder: Path | None = None,
    ) -> None:
        self.name = name
        self.disk = LocalDisk(sync_folder) if sync_folder else None
        self._clients = clients
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._public_endpoint = public_endpoint
        self._sync_folder = sync_folder
        self._wants_md5 = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ValueError if no bucket is set."""
        if not settings.s3_bucket:
            raise ValueError("MIRROR_S3_BUCKET is not set")
        return cls(
            S3Clients(settings.s3_region, settings.s3_endpoint),
            settings.s3_bucket,
            prefix=settings.s3_prefix,
            public_endpoint=settings.s3_public_endpoint,
            sync_folder=settings.s3_sync_folder,
        )

    def prepare(self, *, commit_timeout: float) -> None:
        """Make the clients, which take 0.2 s each, and speak to nobody: for a worker before it forks.

        *commit_timeout* is the one that `put` will be called with where it may not try twice.
        """
        for patience in (_USUAL, _COMPLETING, _patience(commit_timeout, retries=False)):
            client = self._clients.client(patience)
            client.get_paginator("list_objects_v2")  # the first one searches all of AWS's models, for 15 ms

    def rehearse(self, absent: str) -> None:
        """Ask whether the bucket is there, and for a key that is not: for a worker before it forks.

        No connection stays. A copy begins with asking for what is absent, and the first answer that says no makes
        botocore read through all errors it knows of S3: the first such question takes 10 ms of CPU after this, and 23
        without (measured).
        """
        try:
            self.ping()
            self.size(absent)
        finally:
            self._clients.close_connections()

    def close(self) -> None:
        """Close the pooled connections; the bucket can be used again afterwards."""
        self._clients.close()

    # -- objects

    def ping(self) -> None:
        """Ask whether the bucket is there and ours to read."""
        with translated("be reached"):
            self._client.head_bucket(Bucket=self.name)

    def probe(self, size: int = 0) -> None:
        """Write an object of at least *size* random bytes, to see whether S3 takes that now. None that is large stays.

        Asked once, and answered within seconds.
        """
        self.put(layout.probe_key(), os.urandom(max(size, _PROBE)), timeout=_PROBE_TIMEOUT, retries=False)
        if size > _PROBE:
            self.delete([layout.probe_key()])

    def require_room(self, size: int) -> None:
        """Raise StorageFull if *size* bytes more do not fit; only a disk on this machine can be asked."""
        if self.disk is not None and self.disk.lacks(size):
            error = StorageFull(f"store {size} bytes more", f"{DISK_FULL}, {self.disk.described()}")
            error.needed = size
            raise error

    @contextmanager
    def _writing(self, action: str, size: int) -> Iterator[None]:
        """As `translated`, for a write of *size* bytes. rclone says of a full disk only that it failed."""
        try:
            with translated(action):
                yield
        except StorageUnavailable as error:
            found = error
            if self.disk is not None and not isinstance(error, UploadGone) and self.disk.lacks(size):
                found = StorageFull(action, f"{DISK_FULL}, {self.disk.described()}")
            found.size = size
            raise found from None

    def size(self, key: str) -> int | None:
        """The object's size in bytes, None if it is absent.

        A HEAD tells nothing of why it found nothing: in a bucket that is absent, every object is.
        """
        with translated(f"look up {key}"):
            try:
                return self._client.head_object(Bucket=self.name, Key=self._prefix + key)["ContentLength"]
            except ClientError as error:
                if error_status(error) == _NOT_FOUND:
                    return None
                raise

    def read(self, key: str, limit: int, *, timeout: float | None = None, retries: bool = True) -> bytes | None:
        """A small object whole, None if it is absent. Raises StorageDamaged if it has more than *limit* bytes.

        *timeout* and *retries* as in `put`.
        """
        stream = self.open(key, client=self._clients.client(_patience(timeout, retries=retries)))
        if stream is None:
            return None
        with stream:
            if stream.length > limit:
                raise StorageDamaged(key, f"it has {stream.length} bytes, more than the {limit} it may have")
            return stream.read(limit + 1)

    def open(
        self, key: str, start: int = 0, length: int | None = None, *, client: S3Client | None = None
    ) -> ObjectStream | None:
        """The bytes from *start* on, at most *length* of them; None if the object is absent.

        *start* must lie inside the object (an empty one has only 0) and *length* be positive.
        """
        if start < 0 or (length is not None and length < 1):
            raise ValueError(f"no range starts at {start} and has {length} bytes")
        whole = start == 0 and length is None
        asked: dict[str, Any] = {} if whole else {"Range": _range(start, length)}
        with translated(f"read {key}"):
            try:
                answer = (client or self._client).get_object(Bucket=self.name, Key=self._prefix + key, **asked)
            except ClientError as error:
                if error_code(error) == "NoSuchKey":
                    return None
                raise
        given = answer["ContentLength"]
        size = given if whole else _size_of_ranged(answer.get("ContentRange", ""), start, given)
        if size is None or (length is not None and given != min(length, size - start)):
            answer["Body"].close()
            raise StorageUnavailable(f"read {key}", "S3 answered with another range than asked for")
        return ObjectStream(key, answer["Body"], length=given, size=size)

    def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: Digest | None = None,
        timeout: float | None = None,
        retries: bool = True,
    ) -> None:
        """Write an object, all of it or nothing, checked by S3 against *sha256* or else an MD5.

        *timeout*, in seconds, bounds a single attempt: half of it to connect, half for every wait for an answer.
        """
        if sha256 is None:
            checksum: dict[str, Any] = {"ContentMD5": _base64(md5(body))}
        elif sha256.algorithm == "sha256":
            checksum = {"ChecksumSHA256": _base64(bytes.fromhex(sha256.hex))}
        else:
            raise ValueError(f"S3 cannot check {sha256}")
        client = self._clients.client(_patience(timeout, retries=retries))
        with self._writing(f"write {key}", _length(body)):
            client.put_object(Bucket=self.name, Key=self._prefix + key, Body=_sendable(body), **checksum)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects in the order given, ending at the first error. One that is absent is no error."""
        for key in keys:
            with translated(f"delete {key}"):
                self._client.delete_object(Bucket=self.name, Key=self._prefix + key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key that starts with *prefix*, in S3's order (by bytes)."""
        for page in self._pages(prefix):
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._prefix)

    def objects(self, prefix: str) -> Iterator[ListedObject]:
        """What `keys` yields, each with what the listing tells of it."""
        for page in self._pages(prefix):
            for found in page.get("Contents", ()):
                key, etag = found["Key"].removeprefix(self._prefix), found.get("ETag", "").strip('"')
                yield ListedObject(key, etag, found["Size"], found["LastModified"])

    def etags(self, prefix: str, *, after: str, timeout: float) -> Iterator[dict[str, str]]:
        """What starts with *prefix* and comes behind *after* in S3's order, as pages of key -> ETag, unquoted.

        The ETag is the MD5 of what was PUT, in hex, unless the bucket encrypts with a key service or the object came in
        parts (S3 API reference, Object). A page is asked for once, as by `put` with a *timeout* and no retries.
        """
        client = self._clients.client(_patience(timeout, retries=False))
        for page in self._pages(prefix, client=client, StartAfter=self._prefix + after):
            found = page.get("Contents", ())
            yield {entry["Key"].removeprefix(self._prefix): entry.get("ETag", "").strip('"') for entry in found}

    def common_prefixes(self, prefix: str) -> Iterator[str]:
        """The "directories" right under *prefix*, each as the whole relative key and a slash."""
        for page in self._pages(prefix, Delimiter="/"):
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(self._prefix)

    def presigned_url(self, key: str, *, expires: int) -> str:
        """A URL that reads the object for *expires* seconds, at the public endpoint if one is set. Asks nobody."""
        client = self._clients.client(_USUAL, self._public_endpoint)
        with translated(f"sign a URL for {key}"):
            return client.generate_presigned_url(
                "get_object", Params={"Bucket": self.name, "Key": self._prefix + key}, ExpiresIn=expires
            )

    def sync(self) -> None:
        """Return when all that S3 has answered would survive a power cut.

        S3 itself promises that. A server on this machine that does not, as the embedded one, keeps its objects in the
        folder of MIRROR_S3_SYNC_FOLDER, whose file system is synced here.
        """
        if self._sync_folder is None:
            return
        try:
            sync_file_system(self._sync_folder)
        except OSError as error:
            kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StorageUnavailable
            reason = DISK_FULL if kind is StorageFull else os.strerror(error.errno or 0)
            raise kind("bring its objects to the disk", reason) from None

    # -- multipart uploads

    def create_upload(self, key: str) -> str:
        """Open a multipart upload; its id."""
        with self._writing(f"begin an upload of {key}", 0):
            return self._client.create_multipart_upload(
                Bucket=self.name, Key=self._prefix + key, ChecksumAlgorithm="CRC32"
            )["UploadId"]

    def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> StoredPart:
        """Store part *number* (from 1). What S3 stored is what *body* holds.

        Every part carries its CRC-32; S3 checks it and says so in its answer (API reference, UploadPart,
        x-amz-checksum-crc32). For a server that does not say so, the ETag must be the part's MD5: it is the MD5 of what
        S3 stored, except under KMS or customer keys and on servers that make their ETags in another way (API
        reference, "Object", ETag). One that shows neither gets the part again, with an MD5 to check (Content-MD5), and
        all later parts so. An MD5 costs 1.2 s of CPU per GB, and so is made only where it is needed.
        Raises UploadGone if S3 does not know the upload.
        """
        action, crc32 = f"store part {number} of {key}", _base64(isal_zlib.crc32(body).to_bytes(4, "big"))
        sent: dict[str, Any] = {"Key": self._prefix + key, "UploadId": upload_id, "PartNumber": number}
        sent |= {"Body": _sendable(body), "ChecksumCRC32": crc32}
        if self._wants_md5:
            sent["ContentMD5"] = _base64(md5(body))
        answer = self._send_part(action, sent, _length(body))
        if not _is_proven(action, answer, crc32, body) and not self._wants_md5:
            self._wants_md5 = True
            answer = self._send_part(action, {**sent, "ContentMD5": _base64(md5(body))}, _length(body))
        return StoredPart(answer["ETag"], crc32)

    def _send_part(self, action: str, sent: Mapping[str, Any], size: int) -> UploadPartOutputTypeDef:
        with self._writing(action, size):
            return self._client.upload_part(Bucket=self.name, **sent)

    def complete_upload(self, key: str, upload_id: str, parts: Mapping[int, StoredPart], *, size: int) -> None:
        """Make the object of *size* bytes visible, at once and whole, of the parts by their numbers.

        May be repeated: where an earlier call did it and its answer was lost, S3 no longer knows the upload, and the
        object of that size is the proof. Otherwise raises UploadGone.

        That an object is there is believed of the answer to the first request only. One that repeats it may be told
        that the first is at work, which for ever it is where its server was killed (versitygw 1.8.0 says 200).
        """
        listed = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumCRC32": part.crc32}
            for number, part in sorted(parts.items())
        ]
        client, action = self._clients.client(_COMPLETING), f"complete the upload of {key}"
        try:
            with self._writing(action, 0):
                # S3 can answer 200 with an error in the body; botocore turns that into a retried 500.
                answer = client.complete_multipart_upload(
                    Bucket=self.name,
                    Key=self._prefix + key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": listed},  # type: ignore[typeddict-item]  # its stubs want a literal dict
                )
        except UploadGone:
            if self.size(key) != size:
                raise
            return
        if answer["ResponseMetadata"]["RetryAttempts"] and self.size(key) != size:
            raise StorageUnavailable(action, "S3 says that it is done, and holds no such object")

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Throw the upload and its parts away; one that S3 does not know is no error."""
        try:
            with translated(f"abort the upload of {key}"):
                self._client.abort_multipart_upload(Bucket=self.name, Key=self._prefix + key, UploadId=upload_id)
        except UploadGone:
            return

    def open_uploads(self, prefix: str) -> list[OpenUpload]:
        """The multipart uploads under *prefix* that are neither completed nor aborted."""
        found = []
        pages = self._client.get_paginator("list_multipart_uploads")
        try:
            with translated("list its open uploads"):
                for page in pages.paginate(Bucket=self.name, Prefix=self._prefix + prefix):
                    for upload in page.get("Uploads", ()):
                        key = upload["Key"].removeprefix(self._prefix)
                        found.append(OpenUpload(key, upload["UploadId"], upload["Initiated"]))
        except UploadGone:  # rclone's way of saying that there is none
            return []
        return found

    @property
    def _client(self) -> S3Client:
        return self._clients.client(_USUAL)

    def _pages(self, prefix: str, *, client: S3Client | None = None, **options: Any) -> Iterator[Any]:
        paginator = (client or self._client).get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self.name, Prefix=self._prefix + prefix, **options))
        while True:
            with translated(f"list {prefix}"):
                page = next(pages, None)
            if page is None:
                return
            yield page


def md5(body: Body) -> bytes:
    """The checksum S3 speaks everywhere; about 600 MB/s per thread, the GIL released."""
    return hashlib.md5(body, usedforsecurity=False).digest()


def _length(body: Body) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def _patience(timeout: float | None, *, retries: bool) -> Patience:
    connect, read = (CONNECT_TIMEOUT, _USUAL.read) if timeout is None else (timeout / 2, timeout / 2)
    return Patience(connect, read, _USUAL.attempts if retries else 1)


def _sendable(body: Body) -> bytes:
    """A bytearray, which boto3 sends as it is; a memoryview of a whole one is unwrapped.

    Of bytes it makes a file, and before a file it asks S3 (Expect: 100-continue): one turn more for every write.
    """
    whole = body.obj if isinstance(body, memoryview) else body
    if not isinstance(whole, bytearray) or len(whole) != memoryview(body).nbytes:
        whole = bytearray(body)
    return cast("bytes", whole)  # boto3's stubs forget the bytearray it takes


def _range(start: int, length: int | None) -> str:
    return f"bytes={start}-{'' if length is None else start + length - 1}"


def _size_of_ranged(content_range: str, start: int, given: int) -> int | None:
    """The whole object's size from ``bytes 5-9/100``; None unless the answer starts where asked and fits *given*."""
    unit, _, rest = content_range.partition(" ")
    span, _, size = rest.partition("/")
    if unit != "bytes" or span != f"{start}-{start + given - 1}" or not size.isdecimal():
        return None
    return int(size)


def _is_proven(action: str, answer: Mapping[str, Any], crc32: str, body: Body) -> bool:
    """Whether the answer shows that S3 stored *body*; StorageUnavailable if it shows that it stored something else."""
    if told := answer.get("ChecksumCRC32"):
        unchanged = told == crc32
    elif _is_md5(answer["ETag"], answer):
        unchanged = answer["ETag"].strip('"').lower() == md5(body).hex()
    else:
        return False
    if not unchanged:
        raise StorageUnavailable(action, "the part was changed on its way")
    return True


def _is_md5(etag: str, answer: Mapping[str, Any]) -> bool:
    encrypted = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in answer
    text = etag.strip('"')
    return not encrypted and len(text) == _MD5_HEX_LENGTH and not text.lower().strip("0123456789abcdef")
