"""Uploads of blobs: invisible until verified, resumable, and nothing stays open. On every S3 server."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.errors import DigestMismatch, StorageDamaged
from mirror.oci.digest import Digest
from mirror.oci.verification import Hasher
from mirror.settings import Settings
from mirror.storage.blobs import BlobStore, part_size_for
from mirror.storage.bucket import Bucket
from mirror.storage.s3 import UploadGone
from mirror.storage.uploads import UploadCheckpoint
from tests.conftest import SettingsForServer
from tests.contract.storage.blobs import PART, Blob, blob, send
from tests.support.servers import RcloneS3

MIB = 2**20


@pytest.fixture
def store(bucket: Bucket) -> BlobStore:
    return BlobStore(bucket, min_part=PART)


def content_of(store: BlobStore, wanted: Blob) -> bytes | None:
    stream = store.open(wanted.descriptor.digest)
    if stream is None:
        return None
    with stream:
        return b"".join(stream)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_a_blob_of_any_size_comes_back_byte_for_byte(
    store: BlobStore, bucket: Bucket, size: int, algorithm: str
) -> None:
    wanted = blob(size, algorithm=algorithm)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    assert store.held(wanted.descriptor.digest) is None
    upload.complete(wanted.proof)
    assert store.held(wanted.descriptor.digest) == size
    assert content_of(store, wanted) == wanted.content
    assert bucket.uploads.list_open("") == []


def test_an_empty_blob_may_also_be_sent_as_an_empty_part(store: BlobStore) -> None:
    wanted = blob(0)
    upload = store.begin(wanted.descriptor)
    upload.put_part(1, b"")
    upload.complete(wanted.proof)
    assert store.read(wanted.descriptor.digest, 10) == b""


def test_parts_may_come_in_any_order_and_from_many_threads(store: BlobStore) -> None:
    wanted = blob(6 * PART + 5, seed=1)
    upload = store.begin(wanted.descriptor)
    numbers = list(wanted.part_numbers)
    random.Random(7).shuffle(numbers)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: upload.put_part(number, wanted.part(number)), numbers))
    upload.complete(wanted.proof)
    assert content_of(store, wanted) == wanted.content


def test_a_part_may_be_sent_twice(store: BlobStore) -> None:
    wanted = blob(PART + 1)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    upload.put_part(1, wanted.part(1))
    upload.complete(wanted.proof)
    assert content_of(store, wanted) == wanted.content


@pytest.mark.parametrize("size", [100, 2 * PART])
def test_a_corrupt_blob_is_never_visible(store: BlobStore, bucket: Bucket, size: int) -> None:
    wanted, other = blob(size), blob(size, seed=2)
    upload, hasher = store.begin(wanted.descriptor), Hasher(wanted.descriptor)
    for number in other.part_numbers:
        hasher.update(other.part(number))
        upload.put_part(number, other.part(number))
    with pytest.raises(DigestMismatch):
        upload.complete(hasher.finish())
    upload.abort()
    assert store.held(wanted.descriptor.digest) is None
    assert store.held(other.descriptor.digest) is None
    assert list(bucket.keys("")) == []
    assert bucket.uploads.list_open("") == []


@pytest.mark.parametrize("size", [100, 2 * PART])
def test_a_proof_of_other_bytes_is_refused(store: BlobStore, size: int) -> None:
    wanted, other = blob(size), blob(size, seed=3)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    with pytest.raises(ValueError, match="the proof is for"):
        upload.complete(other.proof)
    assert store.held(wanted.descriptor.digest) is None
    upload.abort()


def test_a_blob_with_a_part_missing_is_not_completed(store: BlobStore) -> None:
    wanted = blob(3 * PART)
    upload = store.begin(wanted.descriptor)
    with pytest.raises(ValueError, match=r"part 1 of sha256:.* is missing"):
        upload.complete(wanted.proof)
    upload.put_part(1, wanted.part(1))
    upload.put_part(3, wanted.part(3))
    with pytest.raises(ValueError, match=r"part 2 of sha256:.* is missing"):
        upload.complete(wanted.proof)
    upload.abort()
    small = store.begin(blob(5).descriptor)
    with pytest.raises(ValueError, match=r"part 1 of sha256:.* is missing"):
        small.complete(blob(5).proof)


@pytest.mark.parametrize(
    ("size", "number", "length"),
    [
        (3 * PART, 1, PART - 1),
        (3 * PART, 3, PART + 1),
        (3 * PART, 4, 0),
        (3 * PART, 0, PART),
        (5, 1, 4),
        (5, 2, 0),
        (0, 1, 1),
    ],
)
def test_a_part_of_a_wrong_size_or_place_is_refused(store: BlobStore, size: int, number: int, length: int) -> None:
    upload = store.begin(blob(size).descriptor)
    with pytest.raises(ValueError, match=rf"part {number} of sha256:.* has {length} bytes"):
        upload.put_part(number, bytes(length))


@pytest.mark.versitygw
def test_an_upload_that_is_aborted_is_gone(versitygw_bucket: Bucket) -> None:
    """versitygw proves it. rclone does not distinguish an open upload from one that never existed."""
    wanted = blob(2 * PART)
    upload = BlobStore(versitygw_bucket, min_part=PART).begin(wanted.descriptor)
    assert versitygw_bucket.uploads.list_open("") == []
    upload.put_part(1, wanted.part(1))
    (found,) = versitygw_bucket.uploads.list_open("")
    assert wanted.descriptor.digest.hex in found.key
    upload.abort()
    upload.abort()
    assert versitygw_bucket.uploads.list_open("") == []
    with pytest.raises(ValueError, match="has ended"):
        upload.put_part(2, wanted.part(2))
    with pytest.raises(ValueError, match="has ended"):
        upload.complete(wanted.proof)


@pytest.mark.versitygw
def test_parts_under_way_during_an_abort_leave_nothing_open(versitygw_bucket: Bucket) -> None:
    wanted = blob(8 * PART, seed=4)
    upload = BlobStore(versitygw_bucket, min_part=PART).begin(wanted.descriptor)
    upload.put_part(1, wanted.part(1))
    with ThreadPoolExecutor(4) as pool:
        sending = [pool.submit(upload.put_part, number, wanted.part(number)) for number in range(2, 9)]
        upload.abort()
    assert all(isinstance(future.exception(), ValueError | UploadGone | None) for future in sending)
    assert versitygw_bucket.uploads.list_open("") == []
    assert list(versitygw_bucket.keys("")) == []


@pytest.mark.parametrize("size", [100, 2 * PART])
def test_aborting_after_completion_keeps_the_blob(store: BlobStore, size: int) -> None:
    wanted = blob(size)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    upload.complete(wanted.proof)
    upload.abort()
    assert content_of(store, wanted) == wanted.content


@pytest.mark.parametrize("size", [0, 100, 2 * PART])
def test_completing_again_after_a_lost_response_succeeds(store: BlobStore, size: int) -> None:
    wanted = blob(size)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    checkpoint = upload.checkpoint()
    upload.complete(wanted.proof)
    upload.complete(wanted.proof)
    again = store.resume(wanted.descriptor, checkpoint)
    if checkpoint.upload_id is None:
        send(again, wanted)
    again.complete(wanted.proof)
    assert content_of(store, wanted) == wanted.content


def test_an_upload_goes_on_from_its_checkpoint_elsewhere(store: BlobStore, s3_settings: Settings) -> None:
    wanted = blob(3 * PART + 9, seed=5)
    upload = store.begin(wanted.descriptor)
    assert upload.checkpoint() == UploadCheckpoint(None, PART, {})
    upload.put_part(1, wanted.part(1))
    upload.put_part(2, wanted.part(2))
    checkpoint = upload.checkpoint()
    assert set(checkpoint.parts) == {1, 2}
    elsewhere = Bucket.from_settings(s3_settings)
    resumed = BlobStore(elsewhere).resume(wanted.descriptor, checkpoint)
    assert resumed.part_size == PART
    for number in (3, 4):
        resumed.put_part(number, wanted.part(number))
    resumed.complete(wanted.proof)
    elsewhere.close()
    assert content_of(store, wanted) == wanted.content


def test_a_checkpoint_whose_upload_is_gone_says_so(store: BlobStore) -> None:
    wanted = blob(2 * PART, seed=6)
    upload = store.begin(wanted.descriptor)
    send(upload, wanted)
    checkpoint = upload.checkpoint()
    upload.abort()
    resumed = store.resume(wanted.descriptor, checkpoint)
    with pytest.raises(UploadGone):
        resumed.put_part(1, wanted.part(1))
    with pytest.raises(UploadGone):
        resumed.complete(wanted.proof)
    resumed.abort()
    assert store.held(wanted.descriptor.digest) is None


def test_an_upload_lost_with_the_server_is_gone_and_can_be_begun_again(
    tmp_path: Path, settings_for_server: SettingsForServer
) -> None:
    """rclone keeps open uploads in memory only."""
    server = RcloneS3(tmp_path).start()
    bucket = Bucket.from_settings(settings_for_server(server, ""))
    store, wanted = BlobStore(bucket, min_part=PART), blob(2 * PART, seed=8)
    upload = store.begin(wanted.descriptor)
    upload.put_part(1, wanted.part(1))
    server.kill()
    server.restart()
    with pytest.raises(UploadGone):
        upload.put_part(2, wanted.part(2))
    upload.abort()
    afresh = store.begin(wanted.descriptor)
    send(afresh, wanted)
    afresh.complete(wanted.proof)
    assert content_of(store, wanted) == wanted.content
    bucket.close()
    server.stop()


def test_small_content_is_stored_in_one_step(store: BlobStore) -> None:
    wanted = blob(700)
    store.put(wanted.proof, wanted.content)
    store.put(wanted.proof, wanted.content)
    assert store.read(wanted.descriptor.digest, 700) == wanted.content
    with pytest.raises(StorageDamaged):
        store.read(wanted.descriptor.digest, 699)


def test_small_content_other_than_the_verified_is_refused(store: BlobStore) -> None:
    wanted = blob(700)
    with pytest.raises(ValueError, match="this content is not"):
        store.put(wanted.proof, b"x" * 700)
    assert store.held(wanted.descriptor.digest) is None


def test_what_is_not_held_is_none(store: BlobStore) -> None:
    nothing = Digest.of(b"never stored")
    assert store.held(nothing) is None
    assert store.read(nothing, 10) is None
    assert store.open(nothing) is None


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 16 * MIB),
        (16 * MIB, 16 * MIB),
        (9_999 * 16 * MIB, 16 * MIB),
        (9_999 * 16 * MIB + 1, 17 * MIB),
        (5 * 2**40, 525 * MIB),
    ],
)
def test_a_part_is_large_enough_for_ten_thousand_parts(size: int, expected: int) -> None:
    assert part_size_for(size) == expected
    assert -(-size // part_size_for(size)) <= 9_999
