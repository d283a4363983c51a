"""Aborting the multipart uploads that nobody will go on with: S3 keeps their parts, and bills them, for ever.

Harbor and Quay leave them (Harbor #17651, Quay #6885). An upload of ours is somebody's while a worker holds its blob's
lease, or while its checkpoint, which a dead worker's successor goes on from, names it; a checkpoint ends a day after
it was last written. The list is taken first and each upload judged after, and a worker takes the lease before it
opens an upload, so one that is nobody's then was nobody's all the time. Should one be aborted under a worker that was
frozen past its lease, that worker is told by S3, and begins the blob again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from mirror.coordination import keys
from mirror.coordination.checkpoints import Checkpoints
from mirror.coordination.lease import Leases
from mirror.coordination.redis import Redis
from mirror.records.fields import at
from mirror.storage import layout
from mirror.storage.bucket import Bucket

OLD: Final = timedelta(hours=1)
"""Younger ones are left alone: the bucket may have another writer, with a Redis of its own."""
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Run it by one process at a time; two would only abort the same upload twice."""

    bucket: Bucket
    redis: Redis

    def sweep(self, older_than: timedelta = OLD) -> int:
        """Abort what is nobody's and was opened longer than that ago, and say how much it was.

        Raises StorageUnavailable, StorageRefused or RedisUnavailable.
        """
        leases, checkpoints = Leases(self.redis), Checkpoints(self.redis)
        swept = 0
        for upload in self.bucket.open_uploads(layout.blobs_prefix()):
            digest = layout.parse_blob(upload.key)
            if digest is None or at(self.redis.now()) - upload.initiated < older_than:
                continue
            if leases.is_held(keys.blob_lease(digest)) or checkpoints.upload_id(digest) == upload.upload_id:
                continue
            self.bucket.abort_upload(upload.key, upload.upload_id)
            _LOG.info("orphaned upload aborted", blob=str(digest), initiated=str(upload.initiated))
            swept += 1
        return swept
