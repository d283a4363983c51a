"""Publish the benchmark's images as a worker does, and print them as JSON.

`ImageMirror.fill` runs this file with the code of the checkout that is measured. So the bucket and the index in Redis
are as that version writes them. The file imports only what every checkout has.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from mirror.settings import Settings
from mirror.wiring import build
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images
from tests.support.harness import mark_built

_REPOSITORIES: Final = 5
_TAGS: Final = 10
_LAYERS: Final = 20
_LARGE, _SMALL = 100_000, 10_000
"""Bytes of the first layer of each image, and of each other layer."""
_WRITERS: Final = 8


def main() -> None:
    core = build(Settings.load(Settings.require_stores))
    mark_built(core.redis)
    catalog = SeededCatalog(core)
    names = [(f"team/app-{n}", f"v{tag}") for n in range(_REPOSITORIES) for tag in range(_TAGS)]
    with ThreadPoolExecutor(_WRITERS) as writers:
        stored = list(writers.map(lambda name: _publish(catalog, *name), names))
    core.close()
    json.dump(stored, sys.stdout)


def _publish(catalog: SeededCatalog, repository: str, tag: str) -> dict[str, Any]:
    sizes = (_LARGE, *(_SMALL,) * (_LAYERS - 1))
    layers = [images.layer(f"{repository}-{tag}-{number}", size) for number, size in enumerate(sizes)]
    image = images.image(*layers)
    catalog.hold(image, f"{repository}:{tag}")
    return {
        "repository": repository,
        "tag": tag,
        "digest": str(image.digest),
        "length": len(image.body),
        "blobs": {str(digest): len(content) for digest, content in image.blobs.items()},
        "large": str(layers[0].digest),
    }


if __name__ == "__main__":
    main()
