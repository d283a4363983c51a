"""Opening blobs: at the registry, or straight where it redirected to before; each stream holds a slot."""

from __future__ import annotations

from functools import partial
from typing import Final

from mirror.errors import BlobUnknown, MirrorError, SizeInvalid
from mirror.http.deadlines import one_deadline
from mirror.http.transport import Answer
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.blob_stream import BlobStream
from mirror.registry.byte_range import ByteRange, RangeUnusable
from mirror.registry.redirects import BlobTargets, Redirects
from mirror.registry.slot import Slot
from mirror.registry.throttle import Throttle, Wait

_FOUND: Final = (200, 206)


class BlobSource:
    """Opens ranges of blobs."""

    def __init__(self, exchange: AuthorizedRequests, redirects: Redirects, admission: Throttle, wait: Wait) -> None:
        self._exchange = exchange
        self._redirects = redirects
        self._admission = admission
        self._wait = wait
        self._targets = BlobTargets()

    def open(self, reference: Reference, blob: Descriptor, wanted: ByteRange) -> BlobStream:
        """The stream holds its slot until its last byte has come or it is closed."""
        slot = Slot(self._admission, reference.registry, "blobs", self._wait)
        try:
            with one_deadline():
                return self._open(reference, blob, wanted, slot)
        except BaseException as error:
            slot.failed(error)
            raise

    def _open(self, reference: Reference, blob: Descriptor, wanted: ByteRange, slot: Slot) -> BlobStream:
        """The blob from where it was last found, or from the registry; once without a range if it was of no use."""
        headers = wanted.headers(blob)
        if target := self._targets.get(reference, blob.digest):
            answer = self._redirects.at_target(target, headers, reference.registry)
            if answer and not _is_of_no_use(answer, blob, wanted):
                return self._stream(answer, reference, blob, wanted, slot)
            self._targets.forget(reference, blob.digest)
        followed = self._exchange.send("GET", reference, f"blobs/{blob.digest}", headers)
        useless = followed.answer if _is_of_no_use(followed.answer, blob, wanted) else None
        if useless:
            followed = self._exchange.send("GET", reference, f"blobs/{blob.digest}", {})
        stream = self._stream(followed.answer, reference, blob, wanted, slot)
        if useless:
            self._redirects.ask_without_ranges(useless)
        if followed.target:
            self._targets.remember(reference, blob.digest, followed.target)
        return stream

    def _stream(
        self, answer: Answer, reference: Reference, blob: Descriptor, wanted: ByteRange, slot: Slot
    ) -> BlobStream:
        """The answer's bytes. Where they are not what they should be, nobody goes straight to their origin again."""

        def broken(error: MirrorError) -> None:
            self._targets.forget(reference, blob.digest)
            slot.failed(error)

        try:
            unknown = BlobUnknown(reference.registry, reference.repository, str(blob.digest))
            asked_for = f"the blob {blob.digest} of {reference.name}"
            self._exchange.require_ok(answer, reference, unknown, _FOUND, asked_for=asked_for)
            held = wanted.answered(answer, blob)
        except BaseException:
            self._targets.forget(reference, blob.digest)
            answer.close()
            raise
        return BlobStream(answer, blob, held, broken=broken, done=partial(slot.leave, succeeded=True))


def _is_of_no_use(answer: Answer, blob: Descriptor, wanted: ByteRange) -> bool:
    """Whether another piece came than can be used for the range that was asked for. It is dismissed then."""
    try:
        if answer.status in _FOUND:
            wanted.answered(answer, blob)
    except RangeUnusable:
        answer.dismiss()
        return True
    except SizeInvalid:
        return False  # `_stream` raises it, and forgets the target
    return False
