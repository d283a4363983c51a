"""How many requests a well-behaved registry sees for one job, and of what kind.

What is done for odd registries must not cost the others a request. So these are exact counts, not bounds.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest
import urllib3

from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Request, Tokens
from tests.support.harness import Harness
from tests.support.servers import S3Server

PART = 16 * 2**20
"""The engine's part size within the harness's memory budget."""
LARGE = images.Layer(images.OCI_LAYER, random.Random("large").randbytes(2 * PART + 12_345))
_PATH = re.compile(r"/v2/.+/(manifests|blobs)/[^/]+|(/token|/v2/)")

Kind = tuple[str, str, str]
"""Method, kind of path, and the range that was asked for, "" for none."""


def kind(request: Request) -> Kind:
    match = _PATH.fullmatch(request.path)
    path = (match[1] or match[2]) if match else "object"
    return request.method, path, request.headers.get("Range", "")


def seen(registry: FakeRegistry, server: str = "api") -> Counter[Kind]:
    return Counter(kind(request) for request in registry.log(server))


def ordinary() -> images.TestImage:
    """A config, two small layers and one of three parts."""
    return images.image(images.layer("small"), images.layer("other", compressed=True), LARGE)


_KEYS = ("/_layers/", "/_manifests/", "/registry/v2/blobs/", "/mirror/v1/")
RANGES = (f"bytes=0-{PART - 1}", f"bytes={PART}-{2 * PART - 1}", f"bytes={2 * PART}-{2 * PART + 12_344}")
MANIFEST: Counter[Kind] = Counter({("HEAD", "manifests", ""): 1, ("GET", "manifests", ""): 1})
SMALL_BLOBS: Counter[Kind] = Counter({("GET", "blobs", ""): 3})
LARGE_BLOB: Counter[Kind] = Counter({("GET", "blobs", asked): 1 for asked in RANGES})


def test_an_image_costs_a_head_a_get_and_one_request_for_each_blob_or_part(harness: Harness) -> None:
    harness.registry.put(ordinary(), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    assert seen(harness.registry) == MANIFEST + SMALL_BLOBS + LARGE_BLOB


@pytest.fixture
def stored(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count the requests to S3 by method and kind of key, from now on."""
    found: Counter[tuple[str, str]] = Counter()
    send = urllib3.HTTPConnectionPool.urlopen

    def noted(pool: urllib3.HTTPConnectionPool, method: str, url: str, *args: Any, **options: Any) -> Any:
        if f"http://{pool.host}:{pool.port}" == s3_server.url:
            found[method, next((kind for kind in _KEYS if kind in url), "other")] += 1
        return send(pool, method, url, *args, **options)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", noted)
    return found


def test_an_image_costs_s3_a_head_and_three_writes_for_each_blob_and_a_few_for_its_manifest(
    harness: Harness, stored: Counter[tuple[str, str]]
) -> None:
    """A blob is looked for, written and linked, and its source is recorded. The config is read once more."""
    harness.registry.put(images.image(images.layer("small"), images.layer("other")), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    assert stored == {
        ("HEAD", "/registry/v2/blobs/"): 3,
        ("PUT", "/registry/v2/blobs/"): 4,
        ("PUT", "/_layers/"): 3,
        ("PUT", "/_manifests/"): 3,
        ("PUT", "/mirror/v1/"): 4,
        ("GET", "/registry/v2/blobs/"): 1,
        ("GET", "/mirror/v1/"): 1,
        ("HEAD", "/mirror/v1/"): 1,
    }


def test_an_image_that_has_not_changed_costs_one_head(harness: Harness) -> None:
    harness.registry.put(images.image(images.layer("small")), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    harness.registry.requests.clear()
    assert harness.mirror("team/app:1.0").state == "succeeded"
    assert seen(harness.registry) == Counter({("HEAD", "manifests", ""): 1})


def test_an_index_costs_one_get_more_for_each_child(harness: Harness) -> None:
    index = images.three_platforms("counted")
    harness.registry.put(index, "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    children: Counter[Kind] = Counter({("GET", "manifests", ""): 3})
    blobs: Counter[Kind] = Counter({("GET", "blobs", ""): len(index.all_blobs())})
    assert seen(harness.registry) == MANIFEST + children + blobs


def test_a_registry_with_tokens_costs_one_refusal_and_one_token_more(harness: Harness) -> None:
    harness.registry.tokens = Tokens()
    harness.registry.put(ordinary(), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    refused: Counter[Kind] = Counter({("HEAD", "manifests", ""): 1})
    assert seen(harness.registry) == refused + MANIFEST + SMALL_BLOBS + LARGE_BLOB
    assert seen(harness.registry, "token") == Counter({("GET", "/token", ""): 1})


def test_a_registry_that_redirects_is_asked_once_for_each_blob_and_its_storage_for_each_part(harness: Harness) -> None:
    harness.registry.redirect_blobs = True
    harness.registry.put(ordinary(), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    first: Counter[Kind] = Counter({("GET", "blobs", RANGES[0]): 1})
    assert seen(harness.registry) == MANIFEST + SMALL_BLOBS + first
    stored: Counter[Kind] = Counter({("GET", "object", asked): 1 for asked in RANGES})
    assert seen(harness.registry, "cdn") == stored + Counter({("GET", "object", ""): 3})


@pytest.mark.parametrize("redirects", [False, True])
def test_a_registry_that_ignores_ranges_is_asked_once_for_each_blob(harness: Harness, *, redirects: bool) -> None:
    harness.registry.ranges = False
    harness.registry.redirect_blobs = redirects
    harness.registry.put(ordinary(), "team/app", "1.0")
    assert harness.mirror("team/app:1.0").state == "succeeded"
    ignored: Counter[Kind] = Counter({("GET", "blobs", RANGES[0]): 1})
    assert seen(harness.registry) == MANIFEST + SMALL_BLOBS + ignored
