"""Abort multipart uploads that no task will complete. S3 keeps their parts, and bills for them, for ever.

Harbor and Quay leave them (Harbor #17651, Quay #6885). An upload is still needed in two cases:

- A worker holds the lease of its blob.
- The checkpoint of its blob names it, and the task that it was made for has not ended. If the worker died, the next
  one continues from the checkpoint.

A task ends without its upload if its job was canceled while it waited, or if the tag had moved when it continued. Other
tasks might have continued from that checkpoint. That is not worth an upload which stays.

Each upload is judged and aborted under the lease of its blob, so no worker continues it meanwhile. A worker that was
frozen for longer than its lease may lose its upload. S3 then refuses its next part, and it begins the blob again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.oci.digest import Digest
from mirror.records.claims import task_of_holder
from mirror.records.jobs import JobStore
from mirror.records.states import UNFINISHED
from mirror.redis import keys
from mirror.storage import layout
from mirror.storage.bucket import Bucket
from mirror.storage.multipart import OpenUpload

OLD: Final = timedelta(hours=1)
"""Younger uploads are left alone: the bucket may have another writer, with a Redis of its own."""
_LEASE_SECONDS: Final = 60.0
"""Seconds of the blob's lease while its upload is aborted, because S3 may need long."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadPurge:
    """Aborts uploads. Run it in one process at a time. Two would only abort the same upload twice.

    S3 dates an upload by its own clock. So its age is measured with the wall clock, and not with the clock of Redis,
    which may be ahead (mirror/redis/clock.lua).
    """

    bucket: Bucket
    leases: Leases
    checkpoints: Checkpoints
    jobs: JobStore

    def purge(self, older_than: timedelta = OLD, *, alive: Callable[[], bool] = lambda: True) -> int:
        """Abort uploads that no task needs and that are *older_than* this. Return their number.

        *alive* is called between two uploads, and ends the purge by returning False.
        Raises StorageUnavailable, StorageRefused or RedisUnavailable.
        """
        aborted = 0
        for upload in self.bucket.uploads.list_open(layout.BLOBS_PREFIX):
            digest = layout.parse_blob(upload.key)
            if digest is None or datetime.now(UTC) - upload.initiated < older_than:
                continue
            if not alive():
                break
            aborted += self._abort_unless_needed(upload, digest)
        return aborted

    def _abort_unless_needed(self, upload: OpenUpload, digest: Digest) -> bool:
        with self.leases.holding(keys.blob_lease(digest), _LEASE_SECONDS, patience=0) as lease:
            if lease is None:
                return False
            upload_id, holder = self.checkpoints.open_upload(digest) or ("", "")
            if upload_id == upload.upload_id:
                task = self.jobs.task(task_of_holder(holder))
                if task is not None and task.state in UNFINISHED:
                    return False
                self.checkpoints.forget(lease, digest)
            self.bucket.uploads.abort(upload.key, upload.upload_id)
        _LOG.info("orphaned upload aborted", blob=str(digest), initiated=str(upload.initiated))
        return True
