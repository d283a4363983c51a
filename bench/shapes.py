"""The shapes to copy: sets of images, given by the sizes of their layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
MB: Final = 1000 * 1000
_NINETEEN: Final = (640, 384, 256, 192, 128, 96, 96, 64, 48, 32, 32, 24, 16, 16, 8, 8, 4, 3, 1)
"""Layer sizes in MiB, 2 GiB together. As in a real image of that size, few layers are large and many are small."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer of about *size* bytes. The same seed and size give the same blob."""

    seed: str
    size: int


@dataclass(frozen=True, slots=True)
class ImageSpec:
    repository: str
    tag: str
    layers: tuple[LayerSpec, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """Images that are copied together, once with each number of *workers*.

    *warm* images were copied before.
    """

    name: str
    title: str
    images: tuple[ImageSpec, ...]
    workers: tuple[int, ...] = (1,)
    warm: bool = False


def shapes(scale: float = 1.0) -> Mapping[str, Shape]:
    """Return every shape by its name.

    Layers have *scale* times their size, to try out the rig.
    """
    every = (
        _single("one-layer", "one 1 GiB layer", (1024 * MIB,), scale),
        _single("four-layers", "4 × 256 MiB", (256 * MIB,) * 4, scale),
        _single("many-layers", "2 GiB in 19 layers", tuple(size * MIB for size in _NINETEEN), scale),
        _single("small-layers", "40 × 2 MiB", (2 * MIB,) * 40, scale),
        _warm_tags(scale),
        _shared_base(scale),
    )
    return {shape.name: shape for shape in every}


def _single(name: str, title: str, sizes: tuple[int, ...], scale: float) -> Shape:
    layers = tuple(LayerSpec(f"{name}-{number}", int(size * scale)) for number, size in enumerate(sizes))
    return Shape(name, title, (ImageSpec(f"bench/{name}", "1", layers),))


def _warm_tags(scale: float) -> Shape:
    images = tuple(
        ImageSpec("bench/warm-tags", f"v{number}", (LayerSpec(f"warm-{number}", int(64 * 1024 * scale)),))
        for number in range(100)
    )
    return Shape("warm-tags", "100 tags already mirrored", images, warm=True)


def _shared_base(scale: float) -> Shape:
    base = LayerSpec("shared-base", int(200 * MB * scale))
    images = tuple(
        ImageSpec(f"bench/shared-base-{number}", "1", (base, LayerSpec(f"on-base-{number}", int(5 * MB * scale))))
        for number in range(20)
    )
    return Shape("shared-base", "20 images sharing a 200 MB base", images, workers=(1, 2, 4))
