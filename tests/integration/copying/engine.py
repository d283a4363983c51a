"""The copy engine on its own: a scripted registry, a real bucket and a real Redis, and a progress for its progress."""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from mirror.copying.cancellation import Cancellation, on_cancel
from mirror.copying.copier import Copier
from mirror.copying.memory import MemoryBudget
from mirror.copying.ports import BlobState, PlannedBlob
from mirror.copying.resolver import Resolver
from mirror.locks.checkpoints import Checkpoints
from mirror.locks.lease import Leases
from mirror.locks.pins import Pins
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.redis.client import Redis
from mirror.registry.client import RegistryClient
from mirror.storage.blobs import BlobStore, ManifestStore, min_part_for
from mirror.storage.bucket import Bucket
from mirror.storage.provenance import ProvenanceStore
from mirror.wiring import build_throttle
from tests.conftest import MakeSettings
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request

PART: Final = 5 * 2**20
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class RecordingProgress:
    """A `Progress` that remembers everything."""

    states: dict[Digest, list[BlobState]] = field(default_factory=dict)
    copied: dict[Digest, int] = field(default_factory=dict)
    checkpoints: list[Digest] = field(default_factory=list)

    def resolved(self, digest: Digest) -> None:
        """Of no interest here."""

    def planned(self, blobs: Sequence[PlannedBlob]) -> None:
        self.states = {blob.descriptor.digest: [blob.state] for blob in blobs}

    def advanced(self, digest: Digest, state: BlobState, copied: int = 0) -> None:
        self.copied[digest] = max(copied, self.copied.get(digest, 0))
        if self.states[digest][-1] != state:
            self.states[digest].append(state)

    def stopped(self, digest: Digest, state: BlobState, reason: str, code: str | None = None) -> None:
        self.advanced(digest, state)

    def checkpointed(self, digest: Digest) -> None:
        self.checkpoints.append(digest)


@dataclass
class Engine:
    """Copies `team/app:1` of the registry, which has the layers that were put."""

    registry: FakeRegistry
    client: RegistryClient
    bucket: Bucket
    redis: Redis
    progress: RecordingProgress = field(default_factory=RecordingProgress)

    def put(self, *layers: bytes, algorithm: str = "sha256") -> list[Descriptor]:
        """Make team/app:1 an image of these layers."""
        made = [images.Layer(images.OCI_LAYER, content) for content in layers]
        image = images.image(*made)
        if algorithm != "sha256":
            body = image.body
            for content in layers:
                body = body.replace(str(Digest.of(content)).encode(), str(Digest.of(content, algorithm)).encode())
            blobs = {Digest.of(content, algorithm): content for content in layers}
            image = images.TestImage(body, media_types.OCI_MANIFEST, {**image.blobs, **blobs})
        self.registry.put(image, "team/app", "1")
        return [Descriptor(images.OCI_LAYER, Digest.of(content, algorithm), len(content)) for content in layers]

    def copy(
        self, cancellation: Cancellation | None = None, *, budget: int = 4 * PART, holder: str = "engine"
    ) -> RecordingProgress:
        """Copy once, as one worker does. Raises what the copier raises."""
        cancellation = cancellation or Cancellation()
        reference = Reference.parse(f"{self.registry.host}/team/app:1")
        self.progress = RecordingProgress()
        copier = self._copier(budget)
        resolver = Resolver(self.client, ManifestStore(BlobStore(self.bucket), ProvenanceStore(self.bucket)))
        with (
            copier.manifest_memory(reference, cancellation) as memory,
            resolver.resolving(reference, None, cancellation, memory) as resolution,
        ):
            image = resolution.image()
        copier.copy(reference, image, holder=holder, progress=self.progress, cancellation=cancellation)
        return self.progress

    def _copier(self, budget: int) -> Copier:
        return Copier(
            self.client,
            BlobStore(self.bucket, min_part=min_part_for(budget)),
            ProvenanceStore(self.bucket),
            Pins(self.redis),
            Leases(self.redis),
            Checkpoints(self.redis),
            MemoryBudget(budget),
        )

    def content(self, blob: Descriptor) -> bytes | None:
        stream = BlobStore(self.bucket).open(blob.digest)
        if stream is None:
            return None
        with stream:
            return b"".join(stream)

    def asked(self, blob: Descriptor, since: int = 0) -> list[tuple[int, int]]:
        """The stretches of the blob that were asked for, as (start, end), after the first *since* requests."""
        return [_stretch(request, blob) for request in self.registry.log()[since:] if str(blob.digest) in request.path]

    @property
    def requests(self) -> int:
        return len(self.registry.log())


def _stretch(request: Request, blob: Descriptor) -> tuple[int, int]:
    asked = _RANGE.fullmatch(request.headers.get("Range", ""))
    return (int(asked[1]), int(asked[2]) + 1 if asked[2] else blob.size) if asked else (0, blob.size)


def content(size: int, seed: str = "content") -> bytes:
    return random.Random(seed).randbytes(size)


BIG: Final = content(7 * PART + 12_345)


@contextmanager
def engine_on(
    registry: FakeRegistry, bucket: Bucket, redis_url: str, settings: MakeSettings, *, connections: int = 16
) -> Iterator[Engine]:
    chosen = settings(
        insecure_registries=frozenset({registry.host}), allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),)
    )
    redis = Redis.connect(redis_url)
    throttle = build_throttle(redis, {registry.host: connections})
    client = RegistryClient.from_settings(chosen, throttle=throttle, sleep=lambda _: None, on_cancel=on_cancel)
    yield Engine(registry, client, bucket, redis)
    client.close()
    throttle.limiter.close()
    redis.close()


def on_range(blob: Descriptor, start: int, change: faults.Change, *, times: int | None = None) -> faults.Script:
    """Change the responses to requests for the blob from byte *start* on."""
    touched = faults.faulty(change, path=str(blob.digest), times=times)

    def script(request: Request, reply: Reply) -> Reply | None:
        return touched(request, reply) if request.headers.get("Range", "").startswith(f"bytes={start}-") else None

    return script


def wait_for(copying: Future[RecordingProgress], ask: Callable[[], object], what: str) -> None:
    """Until *ask* says so, while the copy goes on."""
    eventually(lambda: copying.done() or ask(), what=what)
    assert not copying.done(), copying.exception()
