"""Whether a target is already what its task asks for, decided without a server."""

from __future__ import annotations

import pytest

from mirror.catalog.entry import IndexedTag, is_current
from mirror.oci.digest import Digest
from mirror.records.spec import CopySpec

IMAGE, OTHER = Digest.of(b"an image"), Digest.of(b"another image")
SPEC = CopySpec.parse("registry.example/team/app:1", "prod/app:1")


@pytest.mark.parametrize(
    ("source", "job", "also_from"),
    [
        ("registry.example/team/app:1", "job", ()),
        ("registry.example/team/app:2", "job", ()),
        ("elsewhere.example/team/app:1", "job", ("registry.example/team/app",)),
        ("team/base:1", None, ("registry.example/team/app",)),
    ],
    ids=["its source", "another tag of its source", "one of several sources", "a retagged image that it served too"],
)
def test_a_target_with_the_digest_of_its_source_is_current(
    source: str, job: str | None, also_from: tuple[str, ...]
) -> None:
    assert is_current(SPEC, IMAGE, IndexedTag(IMAGE, source, job, also_from))


@pytest.mark.parametrize(
    "held",
    [
        None,
        IndexedTag(OTHER, "registry.example/team/app:1", "job"),
        IndexedTag(IMAGE, "registry.example/team/other:1", "job"),
        IndexedTag(IMAGE, "elsewhere.example/team/app:1", "job"),
        IndexedTag(IMAGE, "registry.example/team/app:1", None),
        IndexedTag(IMAGE, None, None),
    ],
    ids=["nothing held", "another digest", "another repository", "another registry", "retagged", "unknown source"],
)
def test_a_target_is_not_current_without_the_digest_from_its_source(held: IndexedTag | None) -> None:
    assert not is_current(SPEC, IMAGE, held)
