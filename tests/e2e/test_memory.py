"""The memory of a worker while it copies a large layer or many manifests.

The layer has 1 GiB, or ``LAYER_GIB``.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from mirror.oci import media_types
from tests.e2e.fleet import Fleet
from tests.e2e.processes import eventually
from tests.support import images
from tests.support.fakes.registry import Synthetic

MANIFESTS = 14
PADDING = 3_900 * 1024
LAYER_GIB = int(os.environ.get("LAYER_GIB", "1"))
LAYER = LAYER_GIB * 2**30
BUDGET = 256 * 2**20
MOST = 128 * 2**20 + BUDGET


def memory(pid: int) -> int:
    """Return the process's memory in bytes as PSS, or 0 after it has ended.

    PSS counts shared pages in part.
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@pytest.mark.timeout(120 * LAYER_GIB)
def test_a_gigabyte_layer_passes_through_the_budget_and_128_mib(fleet: Fleet) -> None:
    big = Synthetic(LAYER)
    small = images.image(images.layer("small"))
    document = json.loads(small.body)
    document["layers"].append({"mediaType": images.OCI_LAYER, "digest": str(big.digest), "size": big.size})
    image = images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, small.blobs)
    fleet.registry.put(image, "team/app", "1")
    fleet.registry.put_blob("team/app", big.digest, big)
    most = 0
    with fleet.worker() as worker:
        job = fleet.submit("team/app:1")

        def ended() -> bool:
            nonlocal most
            most = max(most, sum(memory(pid) for pid in [worker.child.pid, *worker.children()]))
            return fleet.store.job(job.id).finished_at is not None

        eventually(ended, within=100 * LAYER_GIB, what="the gigabyte was mirrored")
    finished = fleet.store.job(job.id)
    assert (finished.state, finished.digest) == ("succeeded", str(image.digest))
    assert finished.bytes.copied > LAYER
    print(f"worker and work horse peaked at {most / 2**20:.0f} MiB with a layer of {LAYER_GIB} GiB")  # noqa: T201 - a measurement
    assert most < MOST, f"worker and work horse peaked at {most / 2**20:.0f} MiB"


def padded(seed: str) -> images.TestImage:
    """Return an index with 53 MiB of manifests, almost 4 MiB each."""
    children = []
    for number in range(MANIFESTS):
        image = images.image(images.layer(f"{seed}-{number}", 100))
        document = {**json.loads(image.body), "annotations": {"padding": "x" * PADDING}}
        children.append((None, images.TestImage(json.dumps(document).encode(), media_types.OCI_MANIFEST, image.blobs)))
    return images.index(*children)


@pytest.mark.timeout(120)
def test_eight_images_with_53_mib_of_manifests_each_stay_within_the_budget_and_128_mib(fleet: Fleet) -> None:
    """Together they exceed the budget. Tasks that wait for memory occupy no worker."""
    for number in range(8):
        fleet.registry.put(padded(str(number)), "team/app", str(number))
    most, copied = 0, 0
    with fleet.worker() as worker:
        jobs = [fleet.submit(f"team/app:{number}") for number in range(8)]

        def all_copied_or_waiting() -> bool:
            nonlocal most, copied
            most = max(most, sum(memory(pid) for pid in [worker.child.pid, *worker.children()]))
            found = [fleet.store.job(job.id) for job in jobs]
            copied = sum(job.state == "succeeded" for job in found)
            waiting = sum(job.waiting_for is not None and job.waiting_for.reason == "memory" for job in found)
            return copied + waiting == len(jobs)

        eventually(all_copied_or_waiting, within=100, what="each was mirrored, or waits for memory")
    assert copied >= 1
    print(f"worker and work horse peaked at {most / 2**20:.0f} MiB with 8 x 53 MiB of manifests")  # noqa: T201 - a measurement
    assert most < MOST, f"worker and work horse peaked at {most / 2**20:.0f} MiB"
