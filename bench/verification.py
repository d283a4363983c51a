"""Whether a copy is one: every tag and every blob is read back as a client reads them, through a stock registry."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import urllib3

from bench.buckets import BucketServer
from bench.servers import Registry
from bench.source import LoadedShape, SourceImage
from mirror.oci import media_types

_PIECE: Final = 1024 * 1024
_AT_ONCE: Final = 2


class CopyIsWrong(Exception):
    """A tag or a blob is not what the source holds: nothing may be claimed of how fast it came."""


def verify(loaded: LoadedShape, bucket: str, server: BucketServer, directory: Path) -> None:
    """Read everything back; a blob that images share is read once and found by the others. Raises CopyIsWrong."""
    storage = server.registry_storage(bucket, server.url)
    with (
        Registry(directory / "reader", storage, descriptors_cached=False) as reader,
        ThreadPoolExecutor(_AT_ONCE) as threads,
        urllib3.PoolManager(retries=False, timeout=120, maxsize=_AT_ONCE) as http,
    ):
        url = f"http://{reader.host}/v2"
        list(threads.map(lambda image: _tag_is_right(http, url, image), loaded.images))
        once = {blob.digest: image.repository for image in loaded.images for blob in image.blobs}
        list(threads.map(lambda held: _blob_is_right(http, url, *held), once.items()))


def _tag_is_right(http: urllib3.PoolManager, url: str, image: SourceImage) -> None:
    address = f"{url}/{image.repository}/manifests/{image.tag}"
    answer = http.request("GET", address, headers={"Accept": media_types.OCI_MANIFEST})
    found = f"sha256:{hashlib.sha256(answer.data).hexdigest()}"
    if answer.status != 200 or found != image.digest:
        raise CopyIsWrong(f"{image.repository}:{image.tag}: {answer.status}, {found} instead of {image.digest}")
    for blob in image.blobs:
        held = http.request("HEAD", f"{url}/{image.repository}/blobs/{blob.digest}")
        if held.status != 200 or int(held.headers["Content-Length"]) != blob.size:
            raise CopyIsWrong(f"{image.repository}: {held.status} for {blob.digest}")


def _blob_is_right(http: urllib3.PoolManager, url: str, digest: str, repository: str) -> None:
    answer = http.request("GET", f"{url}/{repository}/blobs/{digest}", preload_content=False)
    hasher = hashlib.sha256()
    for piece in answer.stream(_PIECE):
        hasher.update(piece)
    answer.release_conn()
    if answer.status != 200 or f"sha256:{hasher.hexdigest()}" != digest:
        raise CopyIsWrong(f"{repository}: {answer.status}, sha256:{hasher.hexdigest()} instead of {digest}")
