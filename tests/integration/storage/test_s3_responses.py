"""Responses that S3 seldom gives: errors, false successes, and responses that are lost."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import zlib
from datetime import UTC, datetime, timedelta

import botocore
import pytest

from mirror import __version__
from mirror.catalog.tag_change import COMMIT_TIMEOUT, LEASE_SECONDS
from mirror.errors import StorageFull, StorageRefused, StorageUnavailable
from mirror.oci.digest import Digest
from mirror.storage.links import LinkStore
from mirror.storage.multipart import StoredPart
from mirror.storage.s3 import ResponseLate, UploadGone
from tests.integration.storage.scripted_s3 import OpenBucket, Request, Response, Script, error, in_sequence

DIGEST = Digest.of(b"an image")
BODY_MD5 = "hBotaJrYa9FhFEdFPCLG/A=="
BODY_CRC32 = base64.b64encode(zlib.crc32(b"body").to_bytes(4, "big")).decode()
STORED = StoredPart("etag", BODY_CRC32)
COMPLETED = Response(200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (error(403, "AccessDenied"), StorageRefused),
        (error(403, "InvalidAccessKeyId"), StorageRefused),
        (error(404, "NoSuchBucket"), StorageRefused),
        (error(403, "QuotaExceeded"), StorageFull),
        (error(507, "XMinioStorageFull"), StorageFull),
        (error(507, "InsufficientStorage"), StorageFull),
        (Response(507, b""), StorageFull),
        (error(500, "InternalError", "write /data/x: no space left on device"), StorageFull),
        (error(403, "AccessDenied", "no space left on device"), StorageRefused),
        (error(400, "InvalidArgument"), StorageRefused),
        (error(500, "InternalError"), StorageUnavailable),
        (error(503, "SlowDown"), StorageUnavailable),
        (error(400, "RequestTimeout"), StorageUnavailable),
        (error(400, "BadDigest"), StorageUnavailable),
        (error(409, "OperationAborted"), StorageUnavailable),
        (error(429, "TooManyRequests"), StorageUnavailable),
        (Response(502, b"<html>Bad Gateway</html>"), StorageUnavailable),
        (Response(404, b"not S3 at all"), StorageRefused),
    ],
)
def test_an_error_of_s3_is_translated_without_its_text(
    scripted: OpenBucket, response: Response, expected: type[StorageRefused | StorageUnavailable]
) -> None:
    bucket, _ = scripted(lambda _: response)
    with pytest.raises(expected) as failure:
        bucket.put("key", b"", retries=False)
    text = repr(failure.value) + str(failure.value)
    assert failure.value.__cause__ is None
    for leak in ("vendor's own words", "the-access-key", "the-secret-key", "Signature", "127.0.0.1", "<"):
        assert leak not in text


def test_text_that_is_no_error_code_is_not_passed_on(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda _: error(400, "see http://evil/?X-Amz-Signature=1"))
    with pytest.raises(StorageRefused, match=r"refused to write key: HTTP 400$"):
        bucket.put("key", b"")


def test_an_endpoint_that_is_not_s3_is_unavailable(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda _: Response(200, b"<html><body>Welcome to nginx!", {"Content-Type": "text/html"}))
    with pytest.raises(StorageUnavailable):
        list(bucket.keys(""))


def test_a_transient_error_is_retried(scripted: OpenBucket) -> None:
    bucket, server = scripted(in_sequence(error(503, "SlowDown"), Response()))
    bucket.put("key", b"body")
    assert [request.body for request in server.requests] == [b"body", b"body"]


def test_a_commit_that_s3_is_too_busy_for_is_tried_once(scripted: OpenBucket) -> None:
    """A second attempt could happen after another process took the tag's lease."""
    bucket, server = scripted(lambda _: error(503, "SlowDown"))
    with pytest.raises(StorageUnavailable):
        LinkStore(bucket).set_current("team/app", "7", DIGEST, timeout=10)
    assert len(server.requests) == 1


def test_a_commit_that_s3_answers_with_an_internal_error_is_sent_again(scripted: OpenBucket) -> None:
    bucket, server = scripted(in_sequence(error(500, "InternalError"), Response()))
    LinkStore(bucket).set_current("team/app", "7", DIGEST, timeout=10)
    assert [(request.method, request.body) for request in server.requests] == [("PUT", str(DIGEST).encode())] * 2


def test_a_tag_whose_deletion_s3_answers_with_an_internal_error_is_deleted_again(scripted: OpenBucket) -> None:
    bucket, server = scripted(in_sequence(error(500, "InternalError"), Response(204)))
    LinkStore(bucket).delete_tag("team/app", "7", timeout=10)
    assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


def test_internal_errors_without_end_end_the_commit_before_its_lease(scripted: OpenBucket) -> None:
    """The last attempt begins within a quarter of the timeout. So the commit needs under half the lease in all."""
    bucket, server = scripted(lambda _: error(500, "InternalError"))
    with pytest.raises(StorageUnavailable, match="InternalError"):
        LinkStore(bucket).set_current("team/app", "7", DIGEST, timeout=2)
    assert len(server.requests) > 1
    assert COMMIT_TIMEOUT * 5 / 4 < LEASE_SECONDS / 2


def test_the_commit_waits_no_longer_than_its_timeout(scripted: OpenBucket) -> None:
    released = threading.Event()

    def never(_: Request) -> Response:
        released.wait(60)
        return Response()

    bucket, server = scripted(never)
    with pytest.raises(ResponseLate, match="did not answer in time"):
        LinkStore(bucket).set_current("team/app", "7", DIGEST, timeout=0.2)
    released.set()
    assert len(server.requests) == 1


def test_every_write_carries_a_checksum_and_no_signed_payload(scripted: OpenBucket) -> None:
    etag = hashlib.md5(b"body", usedforsecurity=False).hexdigest()
    bucket, server = scripted(lambda _: Response(200, b"", {"ETag": f'"{etag}"'}))
    bucket.put("key", b"body")
    bucket.put("key", b"body", digest=Digest.of(b"body"))
    bucket.put("key", b"body", digest=Digest.of(b"body", "sha512"))
    bucket.uploads.upload_part("key", "id", 1, b"body")
    plain, checked, sha512, part = (request.headers for request in server.requests)
    assert plain["Content-MD5"] == sha512["Content-MD5"] == BODY_MD5
    assert part["x-amz-checksum-crc32"] == BODY_CRC32
    assert checked["x-amz-checksum-sha256"] == "Iw2DWNyOiJC0xY3utikS7i8gNXrpKlzIYbmOaP4xrLU="
    assert {headers["X-Amz-Content-SHA256"] for headers in (plain, checked, sha512, part)} == {"UNSIGNED-PAYLOAD"}
    assert not any("trailer" in name.lower() for headers in (plain, checked, sha512, part) for name in headers)


def test_a_part_that_was_changed_on_its_way_is_detected(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda _: Response(200, b"", {"ETag": f'"{"0" * 32}"'}))
    with pytest.raises(StorageUnavailable, match="store part 1 of key: the part was changed"):
        bucket.uploads.upload_part("key", "id", 1, b"body")


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms:dsse"},
        {"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {"ETag": '"a-servers-own-way"'},
    ],
)
def test_a_part_is_sent_again_with_an_md5_if_the_response_proves_nothing(
    scripted: OpenBucket, headers: dict[str, str]
) -> None:
    bucket, server = scripted(lambda _: Response(200, b"", headers))
    for number in (1, 2):
        assert bucket.uploads.upload_part("key", "id", number, b"body") == StoredPart(headers["ETag"], BODY_CRC32)
    assert [request.headers.get("Content-MD5") for request in server.requests] == [None, BODY_MD5, BODY_MD5]


def test_a_part_is_sent_once_if_s3_returns_the_crc32_or_an_md5(scripted: OpenBucket) -> None:
    etag = hashlib.md5(b"body", usedforsecurity=False).hexdigest()
    shown = iter([{"ETag": '"any"', "x-amz-checksum-crc32": BODY_CRC32}, {"ETag": f'"{etag}"'}])
    bucket, server = scripted(lambda _: Response(200, b"", next(shown)))
    for number in (1, 2):
        bucket.uploads.upload_part("key", "id", number, b"body")
    assert ["Content-MD5" in request.headers for request in server.requests] == [False, False]
    assert {request.headers["x-amz-checksum-crc32"] for request in server.requests} == {BODY_CRC32}


@pytest.mark.parametrize("earlier", [{}, {"x-amz-checksum-crc32": BODY_CRC32}], ids=["no proof", "proof"])
def test_a_part_with_another_crc32_in_the_response_was_changed_on_its_way(
    scripted: OpenBucket, earlier: dict[str, str]
) -> None:
    bucket, server = scripted(
        lambda request: Response(
            200, b"", {"ETag": '"any"', **({"x-amz-checksum-crc32": "AAAAAA=="} if "=2" in request.path else earlier)}
        )
    )
    bucket.uploads.upload_part("key", "id", 1, b"body")
    with pytest.raises(StorageUnavailable, match="the part was changed"):
        bucket.uploads.upload_part("key", "id", 2, b"body")
    assert "partNumber=2" in server.requests[-1].path


def test_a_completion_with_an_error_inside_a_200_is_an_error(scripted: OpenBucket) -> None:
    """CompleteMultipartUpload sends its status before it knows (API reference)."""
    bucket, server = scripted(lambda _: Response(200, error(200, "InternalError").body))
    with pytest.raises(StorageUnavailable, match="InternalError"):
        bucket.uploads.complete("key", "id", {1: STORED}, size=4)
    assert len(server.requests) == 3


def completing(*posts: Response, holds: int | None) -> Script:
    """Return the responses to POSTs one after the other. A HEAD finds an object of *holds* bytes, or none."""

    def script(request: Request) -> Response:
        if request.method == "HEAD":
            return Response(404) if holds is None else Response(200, headers={"Content-Length": str(holds)})
        return next(responses)

    responses = iter(posts)
    return script


def test_a_completion_with_an_error_inside_a_200_is_retried(scripted: OpenBucket) -> None:
    bucket, _ = scripted(completing(Response(200, error(200, "InternalError").body), COMPLETED, holds=4))
    bucket.uploads.complete("key", "id", {1: STORED}, size=4)


LOST_RESPONSE = (error(500, "InternalError"), error(404, "NoSuchUpload"))
"""The first response is lost. At the second attempt the upload is gone."""


def test_a_completion_whose_response_was_lost_is_proven_by_the_object(scripted: OpenBucket) -> None:
    bucket, _ = scripted(completing(*LOST_RESPONSE, holds=4))
    bucket.uploads.complete("key", "id", {2: STORED, 1: STORED}, size=4)


def test_an_object_of_another_size_does_not_prove_a_completion(scripted: OpenBucket) -> None:
    bucket, _ = scripted(completing(*LOST_RESPONSE, holds=5))
    with pytest.raises(UploadGone):
        bucket.uploads.complete("key", "id", {2: STORED, 1: STORED}, size=4)


def test_a_completion_without_a_retry_is_believed_at_once(scripted: OpenBucket) -> None:
    bucket, server = scripted(completing(COMPLETED, holds=None))
    bucket.uploads.complete("key", "id", {1: STORED}, size=4)
    assert [request.method for request in server.requests] == ["POST"]


@pytest.mark.parametrize("holds", [None, 5])
def test_a_retried_completion_is_believed_only_with_the_object(scripted: OpenBucket, holds: int | None) -> None:
    """A server that was killed meanwhile may believe that the first request is still at work (versitygw 1.8.0)."""
    bucket, server = scripted(completing(error(503, "SlowDown"), COMPLETED, holds=holds))
    with pytest.raises(StorageUnavailable, match="holds no such object"):
        bucket.uploads.complete("key", "id", {1: STORED}, size=4)
    assert [request.method for request in server.requests] == ["POST", "POST", "HEAD"]


def test_parts_that_s3_lost_mean_that_the_upload_is_gone(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda request: Response(404) if request.method == "HEAD" else error(400, "InvalidPart"))
    with pytest.raises(UploadGone):
        bucket.uploads.complete("key", "id", {1: STORED}, size=4)


def test_a_list_of_uploads_may_omit_whether_it_is_truncated(scripted: OpenBucket) -> None:
    """rclone does, and returns 404 when there is none."""
    upload = "<Key>prefix/key</Key><UploadId>id</UploadId><Initiated>2026-11-23T20:00:00Z</Initiated>"
    listed = f"<ListMultipartUploadsResult><Upload>{upload}</Upload></ListMultipartUploadsResult>"
    bucket, _ = scripted(in_sequence(Response(200, listed.encode()), error(404, "NoSuchUpload")))
    (found,) = bucket.uploads.list_open("")
    assert (found.key, found.upload_id, found.initiated.isoformat()) == ("key", "id", "2026-11-23T20:00:00+00:00")
    assert bucket.uploads.list_open("") == []


def test_aborting_an_upload_that_is_gone_is_no_error(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda _: error(404, "NoSuchUpload"))
    bucket.uploads.abort("key", "id")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the script's thread is not forked
def test_a_forked_process_never_uses_its_parents_connection(scripted: OpenBucket) -> None:
    """A worker forks work horses. Two processes on one connection would read each other's responses."""
    bucket, server = scripted(lambda _: Response(200, headers={"Content-Length": "1"}))
    assert bucket.size("key") == 1
    pid = os.fork()
    if pid == 0:
        os._exit(0 if bucket.size("key") == 1 else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert bucket.size("key") == 1
    before, child, after = (request.client_port for request in server.requests)
    assert child != before
    assert after == before


def test_a_rehearsal_keeps_the_clients_and_no_connection(scripted: OpenBucket) -> None:
    bucket, server = scripted(in_sequence(Response(), Response(404)))
    bucket.rehearse("blobs/x")
    assert bucket.size("blobs/y") is None
    ping, absent, later = server.requests
    assert (ping.method, ping.path) == ("HEAD", "/images")
    assert (absent.method, absent.path) == ("HEAD", "/images/prefix/blobs/x")
    assert ping.client_port == absent.client_port != later.client_port


def test_a_rehearsal_says_that_the_bucket_is_absent(scripted: OpenBucket) -> None:
    """A HEAD of an object in it would not say so."""
    bucket, server = scripted(lambda _: Response(404))
    with pytest.raises(StorageRefused, match="refused to be reached"):
        bucket.rehearse("blobs/x")
    assert len(server.requests) == 1


def test_the_user_agent_names_the_mirror_and_nothing_of_the_machine(scripted: OpenBucket) -> None:
    bucket, s3 = scripted(in_sequence(Response()))
    bucket.size("blobs/x")
    assert s3.requests[0].headers["User-Agent"] == f"image-mirror/{__version__} Botocore/{botocore.__version__}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-26T14:49:41.620Z", 41.62),
        ("2026-11-26T14:49:41Z", 41),
        ("2026-11-26T15:49:41+01:00", 41),
        ("20261126T144941Z", 41),
        ("Thu Nov 26 14:49:41 2026 UTC", 41),
    ],
)
def test_the_time_of_an_upload_is_parsed_in_any_notation(scripted: OpenBucket, text: str, seconds: float) -> None:
    upload = f"<Upload><Key>prefix/a</Key><UploadId>1</UploadId><Initiated>{text}</Initiated></Upload>"
    listed = f"<ListMultipartUploadsResult>{upload}</ListMultipartUploadsResult>"
    bucket, _ = scripted(in_sequence(Response(200, listed.encode())))
    [found] = bucket.uploads.list_open("")
    assert found.initiated == datetime(2026, 11, 26, 14, 49, tzinfo=UTC) + timedelta(seconds=seconds)
