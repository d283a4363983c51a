"""Blobs whose copy was interrupted: what is kept of them, and when they are resumed or begin again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.copying.cancellation import Cancellation, OperationCanceled
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.oci.descriptor import Descriptor
from mirror.redis import keys
from mirror.storage.blobs import BlobStore
from tests.integration.copying.engine import BIG, PART, Engine, on_range, wait_for
from tests.support.fakes import faults


def frontier(engine: Engine, blob: Descriptor) -> int:
    found = Checkpoints(engine.redis).load(blob.digest)
    return found.frontier if found else -1


def interrupted_at_a_part(
    engine: Engine, blob: Descriptor, part: int, *, resumable: bool = True, holder: str = "first"
) -> None:
    """Begin the copy, hold *part* (from 1) back, and stop when the frontier has passed all parts before it."""
    release = threading.Event()
    engine.registry.scripts += [on_range(blob, (part - 1) * PART, faults.held_until(release, 1000))]
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(engine.copy, cancellation, holder=holder)
        wait_for(copying, lambda: frontier(engine, blob) == part - 1, "all parts before it are done")
        cancellation.cancel("stopped", resumable=resumable)
        with pytest.raises(OperationCanceled):
            copying.result(30)
    release.set()
    engine.registry.scripts = []


def test_an_interrupted_blob_goes_on_from_its_frontier(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 5)
    [upload] = strict.bucket.uploads.list_open("")
    found = Checkpoints(strict.redis).load(blob.digest)
    assert found is not None
    assert (found.upload_id, found.frontier, found.part_size) == (upload.upload_id, 4, PART)
    before = strict.requests
    notes = strict.copy()
    assert strict.content(blob) == BIG
    assert min(start for start, _ in strict.asked(blob, before)) == 4 * PART
    assert sum(end - start for start, end in strict.asked(blob, before)) == blob.size - 4 * PART
    assert notes.copied[blob.digest] == blob.size
    assert strict.bucket.uploads.list_open("") == []


def test_a_checkpoint_names_whom_the_blob_was_last_gone_on_with_for(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    for part, holder in ((3, "first"), (5, "second")):
        interrupted_at_a_part(strict, blob, part, holder=holder)
        [upload] = strict.bucket.uploads.list_open("")
        assert Checkpoints(strict.redis).open_upload(blob.digest) == (upload.upload_id, holder)


def test_a_cancelled_blob_leaves_nothing_open(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 3, resumable=False)
    assert strict.bucket.uploads.list_open("") == []
    assert Checkpoints(strict.redis).load(blob.digest) is None
    assert not strict.redis.call("EXISTS", keys.blob_lease(blob.digest))


def test_a_blob_whose_upload_s3_has_lost_begins_again(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    interrupted_at_a_part(strict, blob, 4)
    [upload] = strict.bucket.uploads.list_open("")
    strict.bucket.uploads.abort(upload.key, upload.upload_id)
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_beginning_from_a_lying_source_does_not_spoil_an_honest_one(strict: Engine) -> None:
    """A checkpoint belongs to a digest, not to its writer. One source's bytes must not block another's blob."""
    [blob] = strict.put(BIG)
    strict.registry.script(on_range(blob, 0, faults.wrong_byte(5)))
    interrupted_at_a_part(strict, blob, 3)
    assert frontier(strict, blob) == 2
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_checkpoint_that_no_longer_fits_the_budget_is_thrown_away_with_its_upload(strict: Engine) -> None:
    [blob] = strict.put(BIG)
    lease = Leases(strict.redis).take(keys.blob_lease(blob.digest), 60)
    assert lease is not None
    store = BlobStore(strict.bucket, min_part=3 * PART)
    opened = store.begin(blob).open()
    Checkpoints(strict.redis).begin(lease, blob.digest, str(opened.upload_id), 3 * PART, holder="task-1")
    Leases(strict.redis).end(lease)
    strict.copy(budget=2 * PART)
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []


def test_a_sha512_blob_begins_again(strict: Engine) -> None:
    [blob] = strict.put(BIG, algorithm="sha512")
    release, cancellation = threading.Event(), Cancellation()
    strict.registry.script(on_range(blob, 3 * PART, faults.held_until(release, 1000), times=1))
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(strict.copy, cancellation)
        wait_for(copying, lambda: len(strict.asked(blob)) >= 4, "four parts were asked for")
        cancellation.cancel("stopped")
        with pytest.raises(OperationCanceled):
            copying.result(30)
    release.set()
    strict.copy()
    assert strict.content(blob) == BIG
    assert strict.bucket.uploads.list_open("") == []
