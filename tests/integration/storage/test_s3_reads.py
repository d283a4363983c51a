"""Responses to reads that S3 seldom gives: other ranges, and bodies that end too early."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mirror.errors import StorageRefused, StorageUnavailable
from mirror.storage.bucket import Bucket
from mirror.storage.served_bucket import ServedBucket
from tests.integration.storage.scripted_s3 import OpenBucket, Response, error, in_sequence

Reading = Callable[[Bucket], Bucket]


@pytest.fixture(params=["workers", "pulls"])
def reading(request: pytest.FixtureRequest) -> Reading:
    """The bucket as workers and as pulls read it."""
    return (lambda bucket: bucket) if request.param == "workers" else (lambda bucket: ServedBucket(bucket, None))


@pytest.mark.parametrize(
    "content_range", ["bytes 0-3/10", "bytes 3-6/10", "bytes 2-6/10", "bytes 2-5/*", "items 2-5/10", ""]
)
def test_another_range_than_the_requested_is_refused(
    scripted: OpenBucket, reading: Reading, content_range: str
) -> None:
    headers = {"Content-Range": content_range} if content_range else {}
    bucket, _ = scripted(lambda _: Response(206, b"2345", headers))
    with pytest.raises(StorageUnavailable, match="another range"):
        reading(bucket).open("key", 2, 4)


def test_a_response_that_ignores_the_range_is_refused(scripted: OpenBucket, reading: Reading) -> None:
    bucket, _ = scripted(lambda _: Response(200, b"0123456789"))
    with pytest.raises(StorageUnavailable, match="another range"):
        reading(bucket).open("key", 2, 4)


def test_a_body_that_ends_too_early_is_detected(scripted: OpenBucket, reading: Reading) -> None:
    bucket, _ = scripted(lambda _: Response(200, b"0123", {"Content-Length": "10"}, cut=True))
    stream = reading(bucket).open("key")
    assert stream is not None
    with stream, pytest.raises(StorageUnavailable):
        b"".join(stream)
    with pytest.raises(StorageUnavailable):
        reading(bucket).read("key", 100)
    again = reading(bucket).open("key")
    assert again is not None
    with again:
        assert again.readinto(bytearray(4)) == 4
        with pytest.raises(StorageUnavailable):
            again.readinto(bytearray(4))


def test_a_small_object_whose_body_ended_too_early_is_requested_again(scripted: OpenBucket, reading: Reading) -> None:
    cut = Response(200, b"0123", {"Content-Length": "10"}, cut=True)
    bucket, server = scripted(in_sequence(cut, cut, Response(200, b"0123456789"), cut))
    assert reading(bucket).read("key", 100) == b"0123456789"
    with pytest.raises(StorageUnavailable, match="early"):
        reading(bucket).read("key", 100, timeout=5, retries=False)
    assert len(server.requests) == 4


def test_a_small_object_that_is_just_being_replaced_is_requested_again(scripted: OpenBucket, reading: Reading) -> None:
    """While it is replaced, rclone returns 500. boto3 asks three times, and `read` lets it do that three times."""
    failed = [error(500, "InternalError")] * 5
    bucket, server = scripted(in_sequence(*failed, Response(200, b"0123456789")))
    assert reading(bucket).read("key", 100) == b"0123456789"
    assert len(server.requests) == 6
    bucket, server = scripted(lambda _: error(500, "InternalError"))
    with pytest.raises(StorageUnavailable, match="InternalError"):
        reading(bucket).read("key", 100, timeout=5, retries=False)
    assert len(server.requests) <= 2


def test_a_pull_asks_again_where_s3_closed_its_connection(scripted: OpenBucket) -> None:
    lost = Response(silent=True)
    bucket, server = scripted(in_sequence(lost, Response(200, b"0123"), lost, Response(200, b"0123")))
    served = ServedBucket(bucket, None)
    assert served.size("key") == 4
    assert served.read("key", 10) == b"0123"
    assert [request.method for request in server.requests] == ["HEAD", "HEAD", "GET", "GET"]


def test_a_pull_shows_why_s3_refuses(scripted: OpenBucket) -> None:
    bucket, _ = scripted(lambda _: error(403, "AccessDenied"))
    served = ServedBucket(bucket, None)
    with pytest.raises(StorageRefused, match="AccessDenied"):
        served.open("key")
    with pytest.raises(StorageRefused, match="HTTP 403"):
        served.size("key")


def test_an_object_with_a_last_modified_header_is_read(scripted: OpenBucket) -> None:
    headers = {"Last-Modified": "Thu, 26 Nov 2026 14:49:41 GMT"}
    bucket, _ = scripted(in_sequence(Response(200, b"body", headers)))
    assert bucket.read("key", 10) == b"body"
