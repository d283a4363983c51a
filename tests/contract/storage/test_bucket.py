"""What `Bucket` promises, on every S3 server the tests have."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3
from botocore.credentials import Credentials

from mirror.errors import StorageDamaged, StorageRefused, StorageUnavailable
from mirror.oci.digest import Digest
from mirror.settings import Settings
from mirror.storage.bucket import Bucket
from mirror.storage.served_bucket import ServedBucket
from tests.conftest import SettingsForServer
from tests.support.servers import RcloneS3, VersityGateway


@pytest.fixture(params=["workers", "pulls"])
def reading(bucket: Bucket, request: pytest.FixtureRequest) -> Bucket:
    """The bucket as workers and as pulls read it. Both promise the same."""
    return bucket if request.param == "workers" else ServedBucket(bucket, None)


def test_an_object_comes_back_as_it_was_written(bucket: Bucket, reading: Bucket) -> None:
    for body in (b"", b"x", bytearray(b"array"), memoryview(b"view"), memoryview(b"a part of a view")[2:6]):
        bucket.put("some/key", body)
        assert reading.read("some/key", 100) == bytes(body)
        assert reading.size("some/key") == len(body)


def test_a_key_may_have_any_character(bucket: Bucket, reading: Bucket) -> None:
    key = "a/key:with+signs and~blanks=%41?é&"
    bucket.put(key, b"value")
    assert (reading.size(key), reading.read(key, 10)) == (5, b"value")


def test_what_is_absent_is_none(reading: Bucket) -> None:
    assert reading.size("absent") is None
    assert reading.read("absent", 10) is None


def test_an_absent_object_cannot_be_opened(reading: Bucket) -> None:
    assert reading.open("absent") is None
    assert reading.open("absent", 5, 5) is None


def test_an_object_larger_than_the_limit_is_not_read(bucket: Bucket) -> None:
    bucket.put("key", b"0123456789")
    assert bucket.read("key", 10) == b"0123456789"
    with pytest.raises(StorageDamaged, match="10 bytes, more than the 9"):
        bucket.read("key", 9)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 10, b"0123456789"),
        (0, 1, b"0"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (5, 100, b"56789"),
    ],
)
def test_a_range_gives_exactly_its_bytes(
    bucket: Bucket, reading: Bucket, start: int, length: int | None, expected: bytes
) -> None:
    bucket.put("key", b"0123456789")
    stream = reading.open("key", start, length)
    assert stream is not None
    with stream:
        assert (stream.length, stream.size) == (len(expected), 10)
        assert b"".join(stream) == expected


def test_a_range_after_the_end_is_refused(bucket: Bucket, reading: Bucket) -> None:
    bucket.put("key", b"0123456789")
    with pytest.raises(StorageRefused, match="InvalidRange"):
        reading.open("key", 10)


def test_a_stream_fills_the_callers_buffer(bucket: Bucket, reading: Bucket) -> None:
    content = os.urandom(3 * 2**20 + 17)
    bucket.put("key", content)
    buffer, filled = bytearray(len(content)), 0
    stream = reading.open("key")
    assert stream is not None
    with stream:
        while count := stream.readinto(memoryview(buffer)[filled:]):
            filled += count
    assert buffer == content


def test_a_stream_that_is_closed_early_harms_nobody(bucket: Bucket, reading: Bucket) -> None:
    bucket.put("key", bytes(8 * 2**20))
    for _ in range(3):
        stream = reading.open("key")
        assert stream is not None
        with stream:
            assert stream.read(10) == bytes(10)
    assert bucket.size("key") == 8 * 2**20


def test_deleting_twice_is_no_error(bucket: Bucket) -> None:
    bucket.put("a", b"1")
    bucket.put("b", b"2")
    bucket.delete(["a", "b"])
    bucket.delete(["a", "b"])
    assert list(bucket.keys("")) == []


def test_an_empty_bucket_lists_nothing(bucket: Bucket) -> None:
    assert list(bucket.keys("")) == []
    assert bucket.uploads.list_open("") == []


def test_listings_go_over_pages_and_stay_under_their_prefix(bucket: Bucket) -> None:
    keys = [f"many/{n // 100:02}/{n:04}" for n in range(1050)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: bucket.put(key, b""), [*keys, "manyother", "other/key"]))
    assert sorted(bucket.keys("many/")) == keys
    assert sorted(bucket.keys("")) == sorted([*keys, "manyother", "other/key"])


def test_keys_with_every_character_we_use_survive_a_listing(bucket: Bucket) -> None:
    key = "mirror/v1/kept/127.0.0.1_5000/a.b/c__d/e--f/sha256:00"
    bucket.put(key, b"")
    bucket.put("tags/V1.0_rc-1+x y&z=%25/current/link", b"")
    assert sorted(bucket.keys("")) == [key, "tags/V1.0_rc-1+x y&z=%25/current/link"]


def test_two_prefixes_of_one_bucket_do_not_see_each_other(bucket: Bucket, s3_settings: Settings) -> None:
    other = Bucket.from_settings(replace(s3_settings, s3_prefix=s3_settings.s3_prefix + "-other"))
    bucket.put("key", b"ours")
    other.put("key", b"theirs")
    assert bucket.read("key", 10) == b"ours"
    assert list(other.keys("")) == ["key"]
    other.close()


def test_a_presigned_url_reads_without_credentials(bucket: Bucket) -> None:
    bucket.put("a/key:with+signs", b"0123456789")
    url = ServedBucket(bucket, None).presigned_url("a/key:with+signs")
    with urllib3.PoolManager() as http:
        assert http.request("GET", url).data == b"0123456789"
        assert http.request("GET", url, headers={"Range": "bytes=2-4"}).data == b"234"
        assert http.request("GET", url.replace("X-Amz-Signature=", "X-Amz-Signature=0")).status == 403
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    assert "X-Amz-Expires=1200" in url


def test_botocore_is_asked_where_a_signed_request_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after credentials were replaced: botocore's client knows the new ones, or says what is wrong.

    versitygw returns 404 to a HEAD with wrong credentials, so only a GET shows it.
    """
    bucket.put("key", b"0123456789")
    served = ServedBucket(bucket, None)
    assert served.size("key") == 10
    monkeypatch.setattr(bucket.clients, "credentials", lambda: Credentials("someone-else", "secret" * 5))
    stream = served.open("key", 2, 3)
    assert stream is not None
    with stream:
        assert stream.read(10) == b"234"


def test_a_presigned_url_names_the_public_endpoint(s3_settings: Settings) -> None:
    public = ServedBucket(Bucket.from_settings(s3_settings), "https://s3.example.com")
    prefix = f"https://s3.example.com/{s3_settings.s3_bucket}/{s3_settings.s3_prefix}/key?"
    assert public.presigned_url("key").startswith(prefix)
    public.close()


@pytest.mark.versitygw
def test_bytes_that_do_not_have_the_stated_sha256_are_refused(versitygw_bucket: Bucket) -> None:
    """versitygw proves it. rclone ignores the checksum."""
    with pytest.raises((StorageRefused, StorageUnavailable)):
        versitygw_bucket.put("key", b"tampered with", digest=Digest.of(b"original"))
    assert versitygw_bucket.size("key") is None


def test_content_with_another_digest_than_sha256_is_stored_too(bucket: Bucket) -> None:
    bucket.put("key", b"content", digest=Digest.of(b"content", "sha512"))
    assert bucket.read("key", 7) == b"content"


def test_proxies_in_the_environment_are_ignored(s3_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    bucket = Bucket.from_settings(s3_settings)
    bucket.ping()
    bucket.close()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_refused_and_not_printed(
    variable: str, s3_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "nobody-knows-this")
    codes = r"InvalidAccessKeyId|SignatureDoesNotMatch|XAdminUserNotFound"  # the last is Versity's own
    bucket = Bucket.from_settings(s3_settings)
    for attempt in (lambda: bucket.put("key", b""), lambda: bucket.read("k", 1), lambda: list(bucket.keys(""))):
        with pytest.raises(StorageRefused, match=codes) as refusal:
            attempt()
        assert "nobody-knows-this" not in str(refusal.value)
    with pytest.raises(StorageRefused):
        bucket.ping()
    bucket.close()


def test_a_missing_bucket_is_refused(s3_settings: Settings) -> None:
    bucket = Bucket.from_settings(replace(s3_settings, s3_bucket="no-such-bucket"))
    for attempt in (
        bucket.ping,
        lambda: bucket.put("key", b""),
        lambda: bucket.read("k", 1),
        lambda: list(bucket.keys("")),
    ):
        with pytest.raises(StorageRefused, match=r"NoSuchBucket|HTTP 404"):
            attempt()
    bucket.close()


def test_no_credentials_at_all_are_refused(
    s3_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    bucket = Bucket.from_settings(s3_settings)
    with pytest.raises(StorageRefused, match="no complete S3 credentials"):
        bucket.ping()
    bucket.close()


@pytest.mark.parametrize("kind", [RcloneS3, pytest.param(VersityGateway, marks=pytest.mark.versitygw)])
def test_a_dead_server_is_unavailable_and_back_when_it_is_back(
    kind: type[RcloneS3 | VersityGateway], tmp_path: Path, settings_for_server: SettingsForServer
) -> None:
    server = kind(tmp_path).start()
    bucket = Bucket.from_settings(settings_for_server(server, "prefix"))
    bucket.put("key", b"kept")
    server.kill()
    attempts: list[Callable[[], object]] = [
        bucket.ping,
        lambda: bucket.size("key"),
        lambda: bucket.put("key", b"", retries=False, timeout=2),
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable) as failure:
            attempt()
        assert failure.value.__cause__ is None
        assert server.access_key not in str(failure.value)
        assert str(server.port) not in str(failure.value)
    server.restart()
    assert bucket.read("key", 10) == b"kept"
    bucket.close()
    server.stop()
