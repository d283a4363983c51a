"""Large layers in the scripted registry, and holding back their bytes."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

from mirror.oci import media_types
from mirror.oci.digest import Digest
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Synthetic
from tests.support.fakes.traffic import start_of


def put_large(
    registry: FakeRegistry, repository: str, tag: str | None, *large: Synthetic, small: tuple[images.Layer, ...] = ()
) -> images.TestImage:
    """Put an image into the registry whose last layers are *large*.

    They need no memory.
    """
    plain = images.image(*small)
    document = json.loads(plain.body)
    document["layers"] += [
        {"mediaType": images.OCI_LAYER, "digest": str(one.digest), "size": one.size} for one in large
    ]
    image = images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, plain.blobs)
    for layer in large:
        registry.put_blob(repository, layer.digest, layer)
    registry.put(image, repository, tag)
    return image


class Hold:
    """A script that holds one blob back at an offset.

    A read that starts before *beyond* is sent whole. Of a read that starts there or later, the first *given* bytes are
    sent, and the rest after `let_go`.
    """

    def __init__(self, digest: Digest, beyond: int, *, given: int = 2**20) -> None:
        self.reached = threading.Event()
        self._digest = str(digest)
        self._beyond = beyond
        self._given = given
        self._opened = threading.Event()

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if self._digest not in request.path or self._opened.is_set() or start_of(reply) < self._beyond:
            return None
        reply.hold = (self._given, self._opened)
        self.reached.set()
        return reply

    def let_go(self) -> None:
        self._opened.set()


@dataclass
class HeldLayer:
    """A layer whose first bytes are sent. The rest follows after *opened* is set."""

    reached: threading.Event
    opened: threading.Event


def held_layer(registry: FakeRegistry, name: str, *, size: int = 2**20) -> HeldLayer:
    """Put team/app:1 with a layer of which 1000 bytes are sent until it is opened."""
    layer = images.layer(name, size)
    registry.put(images.image(layer, images.layer(f"{name}-small")), "team/app", "1")
    held = HeldLayer(threading.Event(), threading.Event())

    def hold(request: Request, reply: Reply) -> Reply | None:
        if str(layer.digest) in request.path and not held.opened.is_set():
            reply.hold = (1000, held.opened)
            held.reached.set()
        return reply

    registry.script(hold)
    return held
