"""What S3, botocore and urllib3 raise, as the mirror's own errors.

Of a vendor exception only S3's error code (``AccessDenied``) passes, and only if it looks like one: their texts print
presigned URLs, keys and hosts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

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
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from mirror.errors import MirrorError, StorageFull, StorageRefused, StorageUnavailable

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{2,63}", re.ASCII)
_PASSING: Final = frozenset(
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
_GONE: Final = frozenset({"InvalidPart", "NoSuchUpload"})
DISK_FULL: Final = "its disk is full"
_QUOTA_FULL: Final = "its quota is used up"
_FULL: Final = {
    "InsufficientStorage": DISK_FULL,
    "StorageFull": DISK_FULL,
    "XMinioStorageFull": DISK_FULL,
    "QuotaExceeded": _QUOTA_FULL,
    "XMinioAdminBucketQuotaExceeded": _QUOTA_FULL,
}
_FULL_TEXT: Final = re.compile("no space left|disk (is )?full|insufficient storage|storage.{0,30} full", re.IGNORECASE)
"""What servers write into the message of a plain 500. It is looked at, never passed on."""
_STATUS_PASSING: Final = frozenset({408, 409, 429})
_STATUS_FULL: Final = 507


class UploadGone(StorageUnavailable):
    """S3 does not know the upload, or a part of it: aborted, expired, or lost with the server. Begin the blob again."""


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise StorageUnavailable, StorageFull, UploadGone or StorageRefused for what S3 and its libraries raise.

    *action* completes "The bucket could not …".
    """
    try:
        yield
    except ClientError as error:
        raise _from_answer(action, error) from None
    except (BotoCoreError, ResponseParserError, HTTPError, OSError) as error:
        raise _from_library(action, error) from None


def error_code(error: ClientError) -> str:
    """S3's code for the error (``NoSuchKey``), or ``HTTP 404`` where the answer has no body to tell it in."""
    answer = error.response
    code = answer.get("Error", {}).get("Code", "")
    if _CODE.fullmatch(code):
        return code
    return f"HTTP {answer.get('ResponseMetadata', {}).get('HTTPStatusCode', 'without status')}"


def error_status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _from_answer(action: str, error: ClientError) -> MirrorError:
    code, status = error_code(error), error_status(error)
    if code in _GONE:
        return UploadGone(action, code)
    if code in _FULL or status == _STATUS_FULL:
        return StorageFull(action, _FULL.get(code, DISK_FULL))
    if status >= 500 and _FULL_TEXT.search(error.response.get("Error", {}).get("Message", "")):
        return StorageFull(action, DISK_FULL)
    if code in _PASSING or status in _STATUS_PASSING or status >= 500:
        return StorageUnavailable(action, code)
    return StorageRefused(action, code)


_REASONS: Final[
    tuple[tuple[type[Exception] | tuple[type[Exception], ...], type[StorageUnavailable | StorageRefused], str], ...]
] = (
    ((NoCredentialsError, PartialCredentialsError), StorageRefused, "no complete S3 credentials are configured"),
    ((CredentialRetrievalError, MetadataRetrievalError), StorageUnavailable, "the S3 credentials could not be fetched"),
    (SSLError, StorageUnavailable, "no TLS connection could be made; check the endpoint's certificate"),
    ((ConnectTimeoutError, ReadTimeoutError), StorageUnavailable, "S3 did not answer in time"),
    (EndpointConnectionError, StorageUnavailable, "S3 cannot be reached"),
    ((BotoConnectionError, HTTPClientError, HTTPError, OSError), StorageUnavailable, "the connection to S3 was lost"),
    (IncompleteReadError, StorageUnavailable, "S3 ended its answer too early"),
    (ResponseParserError, StorageUnavailable, "the endpoint's answer is not S3's"),
)


def _from_library(action: str, error: Exception) -> MirrorError:
    for kinds, translation, reason in _REASONS:
        if isinstance(error, kinds):
            return translation(action, reason)
    return StorageRefused(action, f"the S3 library rejects the request ({type(error).__name__})")
