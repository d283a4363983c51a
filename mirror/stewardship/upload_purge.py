"""Aborting the multipart uploads that nobody will go on with: S3 keeps their parts, and bills them, for ever.

Harbor and Quay leave them (Harbor #17651, Quay #6885). An upload of ours is somebody's while a worker holds its blob's
lease, or while its checkpoint, which a dead worker's successor goes on from, names it and the task that it was made for
has not ended. It has where its job was canceled while it waited, or where the tag had moved when it was taken up again.
What other tasks might have saved by it is not worth an upload that stays.

Each is judged and aborted under its blob's lease, so no worker begins to go on with it meanwhile. Should one be aborted
under a worker that was frozen past its lease, that worker is told by S3, and begins the blob again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.oci.digest import Digest
from mirror.records.claims import task_of_holder
from mirror.records.fields import at
from mirror.records.jobs import JobStore
from mirror.records.states import UNFINISHED
from mirror.redis import keys
from mirror.redis.client import Redis
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from mirror.storage.multipart import OpenUpload

OLD: Final = timedelta(hours=1)
"""Younger ones are left alone: the bucket may have another writer, with a Redis of its own."""
_LEASE_SECONDS: Final = 60.0
"""Of a blob's lease while its upload is aborted, which may take S3 its time."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadPurge:
    """Run it by one process at a time; two would only abort the same upload twice."""

    bucket: Bucket
    redis: Redis

    def sweep(self, older_than: timedelta = OLD, *, alive: Callable[[], bool] = lambda: True) -> int:
        """Abort what is nobody's and was opened longer than that ago, and say how much it was.

        *alive* is called between two uploads, and ends the sweep by returning False.
        Raises StorageUnavailable, StorageRefused or RedisUnavailable.
        """
        swept = 0
        for upload in self.bucket.uploads.list_open(layout.BLOBS_PREFIX):
            digest = layout.parse_blob(upload.key)
            if digest is None or at(self.redis.now()) - upload.initiated < older_than:
                continue
            if not alive():
                break
            swept += self._swept(upload, digest)
        return swept

    def _swept(self, upload: OpenUpload, digest: Digest) -> bool:
        """Abort the upload unless it is somebody's."""
        checkpoints = Checkpoints(self.redis)
        with Leases(self.redis).holding(keys.blob_lease(digest), _LEASE_SECONDS, patience=0) as lease:
            if lease is None:
                return False
            upload_id, holder = checkpoints.open_upload(digest) or ("", "")
            if upload_id == upload.upload_id:
                if self._is_unfinished(task_of_holder(holder)):
                    return False
                checkpoints.forget(lease, digest)
            self.bucket.uploads.abort(upload.key, upload.upload_id)
        _LOG.info("orphaned upload aborted", blob=str(digest), initiated=str(upload.initiated))
        return True

    def _is_unfinished(self, task_id: str) -> bool:
        task = JobStore(self.redis).task(task_id)
        return task is not None and task.state in UNFINISHED
