"""The decision whether a copy may change its target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.catalog.overwrite import decide_overwrite, is_guarded
from mirror.errors import TagDrifted
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.tag_pattern import TagPattern
from mirror.records.rules import OVERWRITES, CopyOptions, Overwrite
from mirror.records.task import Skipped

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
RELEASES = (TagPattern("glob", "v*"), TagPattern("regex", "[0-9]+"))


def decided(
    overwrite: Overwrite, tag: str, shown: Digest | None, found: Digest | None, *, immutable: bool = False
) -> str:
    """Return the decision as one word."""
    options = CopyOptions(overwrite=overwrite, immutable=RELEASES if immutable else ())
    decision = decide_overwrite(options, LocalImage("team/app", tag), shown, found)
    return "follow" if decision is None else "skip" if isinstance(decision, Skipped) else "drifted"


@pytest.mark.parametrize("overwrite", OVERWRITES)
def test_a_tag_that_does_not_exist_is_always_created(overwrite: Overwrite) -> None:
    assert decided(overwrite, "v1", None, NEW, immutable=True) == "follow"


@pytest.mark.parametrize("found", [None, OLD, NEW])
def test_never_skips_a_tag_that_exists_whatever_its_source_has(found: Digest | None) -> None:
    assert decided("never", "v1", OLD, found) == "skip"
    assert decided("never", "v1", OLD, found, immutable=True) == "skip"


@pytest.mark.parametrize("overwrite", ["if-different", "always"])
@pytest.mark.parametrize(
    ("tag", "found", "decision"),
    [
        ("v1", NEW, "drifted"),
        ("17", NEW, "drifted"),
        ("v1", OLD, "follow"),
        ("v1", None, "follow"),
        ("latest", NEW, "follow"),
        ("1v", NEW, "follow"),
    ],
)
def test_an_immutable_tag_is_not_followed_to_another_digest(
    overwrite: Overwrite, tag: str, found: Digest | None, decision: str
) -> None:
    assert decided(overwrite, tag, OLD, found, immutable=True) == decision
    assert decided(overwrite, tag, OLD, found) == "follow"


def test_an_image_that_is_kept_by_its_digest_has_no_tag_to_protect() -> None:
    target = LocalImage("team/app", digest=OLD)
    for overwrite in OVERWRITES:
        assert decide_overwrite(CopyOptions(overwrite=overwrite, immutable=RELEASES), target, OLD, NEW) is None


def test_a_drift_names_the_tag_and_both_digests() -> None:
    options = CopyOptions(immutable=RELEASES)
    decision = decide_overwrite(options, LocalImage("team/app", "v1"), OLD, NEW)
    assert isinstance(decision, TagDrifted)
    assert all(part in decision.message for part in ("team/app:v1", str(OLD), str(NEW)))


@given(
    st.sampled_from(OVERWRITES),
    st.booleans(),
    st.sampled_from(["v1", "latest"]),
    st.sampled_from([None, OLD, NEW]),
    st.sampled_from([None, OLD, NEW]),
)
def test_a_target_that_is_not_guarded_is_always_followed(
    overwrite: Overwrite, immutable: bool, tag: str, shown: Digest | None, found: Digest | None
) -> None:
    options = CopyOptions(overwrite=overwrite, immutable=RELEASES if immutable else ())
    if not is_guarded(options, LocalImage("team/app", tag)):
        assert decided(overwrite, tag, shown, found, immutable=immutable) == "follow"
