"""The decision whether a copy may change its target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.catalog.overwrite import FoundImage, decide_overwrite, is_about_move, is_guarded
from mirror.errors import TagDrifted
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.tag_pattern import TagPattern
from mirror.records.rules import ON_MOVES, OVERWRITES, CopyOptions, OnMove, Overwrite
from mirror.records.task import Skipped

OLD, NEW = Digest.of(b"old"), Digest.of(b"new")
RELEASES = (TagPattern("glob", "v*"), TagPattern("regex", "[0-9]+"))


def image(digest: Digest | None) -> FoundImage | None:
    return FoundImage("docker.io/library/app:1", digest, digest) if digest else None


def decided(
    overwrite: Overwrite,
    tag: str,
    shown: Digest | None,
    found: Digest | None,
    *,
    immutable: bool = False,
    on_move: OnMove = "follow",
) -> str:
    """Return the decision as one word."""
    options = CopyOptions(overwrite=overwrite, immutable=RELEASES if immutable else (), on_move_upstream=on_move)
    decision = decide_overwrite(options, LocalImage("team/app", tag), shown, image(found))
    if isinstance(decision, Skipped):
        return "report" if is_about_move(decision) else "skip"
    return "follow" if decision is None else "drifted"


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
        options = CopyOptions(overwrite=overwrite, immutable=RELEASES, on_move_upstream="report")
        assert decide_overwrite(options, target, OLD, image(NEW)) is None


def test_a_drift_names_the_tag_and_both_digests() -> None:
    options = CopyOptions(immutable=RELEASES)
    decision = decide_overwrite(options, LocalImage("team/app", "v1"), OLD, image(NEW))
    assert isinstance(decision, TagDrifted)
    assert all(part in decision.message for part in ("team/app:v1", str(OLD), str(NEW)))


@pytest.mark.parametrize("overwrite", ["if-different", "always"])
@pytest.mark.parametrize(
    ("shown", "found", "decision"),
    [(OLD, NEW, "report"), (OLD, OLD, "follow"), (OLD, None, "follow"), (None, NEW, "follow")],
)
def test_a_tag_that_its_source_moved_is_reported_if_the_job_asks_for_that(
    overwrite: Overwrite, shown: Digest | None, found: Digest | None, decision: str
) -> None:
    assert decided(overwrite, "v1", shown, found, on_move="report") == decision
    assert decided(overwrite, "v1", shown, found) == "follow"


def test_reporting_moves_changes_nothing_for_tags_that_are_immutable_or_never_overwritten() -> None:
    assert decided("if-different", "v1", OLD, NEW, immutable=True, on_move="report") == "drifted"
    assert decided("if-different", "latest", OLD, NEW, immutable=True, on_move="report") == "report"
    assert decided("never", "v1", OLD, NEW, on_move="report") == "skip"


def test_a_report_names_the_source_and_has_both_digests() -> None:
    made = Digest.of(b"made of the new one for its platforms")
    found = FoundImage("docker.io/library/app:1", NEW, made)
    decision = decide_overwrite(CopyOptions(on_move_upstream="report"), LocalImage("team/app", "v1"), OLD, found)
    message = f"The source 'docker.io/library/app:1' now shows {NEW} and the target keeps {OLD}"
    assert decision == Skipped("moved", message, str(OLD), str(NEW))


@given(
    st.sampled_from(OVERWRITES),
    st.sampled_from(ON_MOVES),
    st.booleans(),
    st.sampled_from(["v1", "latest"]),
    st.sampled_from([None, OLD, NEW]),
    st.sampled_from([None, OLD, NEW]),
)
def test_a_target_that_is_not_guarded_is_always_followed(
    overwrite: Overwrite,
    on_move: OnMove,
    immutable: bool,
    tag: str,
    shown: Digest | None,
    found: Digest | None,
) -> None:
    options = CopyOptions(overwrite=overwrite, immutable=RELEASES if immutable else (), on_move_upstream=on_move)
    if not is_guarded(options, LocalImage("team/app", tag)):
        assert decided(overwrite, tag, shown, found, immutable=immutable, on_move=on_move) == "follow"
