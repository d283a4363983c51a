"""S3's multipart uploads: open, send parts, complete, abort, list. Every byte that S3 stored is proven."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from isal import isal_zlib

from mirror.errors import StorageUnavailable
from mirror.storage.disk import LocalDisk
from mirror.storage.s3 import RequestLimits, S3Clients, UploadGone, translated

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import UploadPartOutputTypeDef

Body = bytes | bytearray | memoryview
COMPLETING: Final = RequestLimits(read=300.0)
"""S3 may take minutes to assemble thousands of parts (CompleteMultipartUpload, API reference)."""
_MD5_HEX_LENGTH: Final = 32


class OpenUpload(NamedTuple):
    """A multipart upload that was neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


class StoredPart(NamedTuple):
    """What S3 must be sent about a part when the upload is completed: its ETag, and its CRC-32 (base64)."""

    etag: str
    crc32: str


class MultipartUploads:
    """The multipart uploads of one bucket. All methods may be called from several threads.

    Keys are relative to *prefix*, which ends with a slash or is empty. *size_of* returns the size of an object, None if
    it is absent. Every method raises StorageUnavailable if S3 cannot be reached or fails, and StorageRefused if it says
    no. Every write raises StorageFull where there is no space.
    """

    def __init__(
        self, clients: S3Clients, bucket: str, prefix: str, disk: LocalDisk, size_of: Callable[[str], int | None]
    ) -> None:
        self._clients = clients
        self._bucket = bucket
        self._prefix = prefix
        self._disk = disk
        self._size_of = size_of
        self._needs_md5 = False

    def create(self, key: str) -> str:
        """Open a multipart upload. Return its id."""
        with self._disk.writing(f"begin an upload of {key}", 0):
            return self._clients.client().create_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, ChecksumAlgorithm="CRC32"
            )["UploadId"]

    def upload_part(self, key: str, upload_id: str, number: int, body: Body) -> StoredPart:
        """Store part *number*, from 1 on. Raises UploadGone if S3 does not know the upload.

        Every part carries its CRC-32. S3 checks it and returns it (API reference, UploadPart, x-amz-checksum-crc32). If
        a server does not return it, the ETag must be the part's MD5. An ETag is the MD5 of what S3 stored, except under
        KMS or customer keys, and on servers that make ETags in another way (API reference, "Object", ETag).

        If a server proves neither, the part is sent again with an MD5 to check (Content-MD5), and so are all later
        parts. An MD5 costs 1.2 s of CPU per GB, so it is computed only where it is needed.
        """
        action, crc32 = f"store part {number} of {key}", _base64(isal_zlib.crc32(body).to_bytes(4, "big"))
        part: dict[str, Any] = {"Key": self._prefix + key, "UploadId": upload_id, "PartNumber": number}
        part |= {"Body": sendable(body), "ChecksumCRC32": crc32}
        if self._needs_md5:
            part["ContentMD5"] = content_md5(body)
        response = self._send_part(action, part, memoryview(body).nbytes)
        if not _is_proven(action, response, crc32, body) and not self._needs_md5:
            self._needs_md5 = True
            response = self._send_part(action, {**part, "ContentMD5": content_md5(body)}, memoryview(body).nbytes)
        return StoredPart(response["ETag"], crc32)

    def complete(self, key: str, upload_id: str, parts: Mapping[int, StoredPart], *, size: int) -> None:
        """Make the object of *size* bytes visible, at once and whole. *parts* are by their numbers. May be repeated.

        An earlier call may have completed it and lost the response. Then S3 no longer knows the upload, and an object
        of that size is the proof. Otherwise raises UploadGone.

        After a retry, the object is looked for. A retry may succeed while the first request is still at work, which it
        is for ever if the server was killed (versitygw 1.8.0 returns 200).
        """
        listed = [
            {"PartNumber": number, "ETag": part.etag, "ChecksumCRC32": part.crc32}
            for number, part in sorted(parts.items())
        ]
        action = f"complete the upload of {key}"
        try:
            with self._disk.writing(action, 0):
                # S3 can answer 200 with an error in the body. botocore turns that into a 500 that it retries.
                response = self._clients.client(COMPLETING).complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": listed},  # type: ignore[typeddict-item]  # its stubs want a literal dict
                )
        except UploadGone:
            if self._size_of(key) != size:
                raise
            return
        if response["ResponseMetadata"]["RetryAttempts"] and self._size_of(key) != size:
            raise StorageUnavailable(action, "S3 says that it is done, and holds no such object")

    def abort(self, key: str, upload_id: str) -> None:
        """Delete the upload and its parts. An upload that S3 does not know is no error."""
        try:
            with translated(f"abort the upload of {key}"):
                self._clients.client().abort_multipart_upload(
                    Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id
                )
        except UploadGone:
            return

    def list_open(self, prefix: str) -> list[OpenUpload]:
        """Return the uploads under *prefix* that are neither completed nor aborted."""
        found = []
        pages = self._clients.client().get_paginator("list_multipart_uploads")
        try:
            with translated("list its open uploads"):
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                    for upload in page.get("Uploads", ()):
                        key = upload["Key"].removeprefix(self._prefix)
                        found.append(OpenUpload(key, upload["UploadId"], upload["Initiated"]))
        except UploadGone:  # rclone's response when there is none
            return []
        return found

    def _send_part(self, action: str, part: Mapping[str, Any], size: int) -> UploadPartOutputTypeDef:
        with self._disk.writing(action, size):
            return self._clients.client().upload_part(Bucket=self._bucket, **part)


def content_md5(body: Body) -> str:
    """Compute the checksum that every S3 server checks, as base64. About 600 MB/s per thread, without the GIL."""
    return _base64(hashlib.md5(body, usedforsecurity=False).digest())


def sendable(body: Body) -> bytes:
    """Return *body* as a bytearray, which boto3 sends as it is. A memoryview of a whole one is unwrapped, not copied.

    boto3 makes a file of bytes, and asks S3 before it sends a file (Expect: 100-continue). That is one more round trip
    for every write.
    """
    whole = body.obj if isinstance(body, memoryview) else body
    if not isinstance(whole, bytearray) or len(whole) != memoryview(body).nbytes:
        whole = bytearray(body)
    return cast("bytes", whole)  # boto3's stubs forget the bytearray it takes


def _base64(checksum: bytes) -> str:
    return base64.b64encode(checksum).decode("ascii")


def _is_proven(action: str, response: Mapping[str, Any], crc32: str, body: Body) -> bool:
    """Whether the response shows that S3 stored *body*. Raises StorageUnavailable if it stored something else."""
    if checked := response.get("ChecksumCRC32"):
        unchanged = checked == crc32
    elif _is_md5(response["ETag"], response):
        unchanged = response["ETag"].strip('"').lower() == hashlib.md5(body, usedforsecurity=False).hexdigest()
    else:
        return False
    if not unchanged:
        raise StorageUnavailable(action, "the part was changed on its way")
    return True


def _is_md5(etag: str, response: Mapping[str, Any]) -> bool:
    has_kms_key = str(response.get("ServerSideEncryption", "")).startswith("aws:kms")
    if has_kms_key or "SSECustomerAlgorithm" in response:
        return False
    text = etag.strip('"')
    return len(text) == _MD5_HEX_LENGTH and not text.lower().strip("0123456789abcdef")
