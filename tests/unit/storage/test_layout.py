"""The bucket's keys: exactly those of distribution, and never two objects under one key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.storage import layout

HEX = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
SHA256 = Digest("sha256", HEX)
SHA512 = Digest("sha512", HEX * 2)
REPOSITORIES = "docker/registry/v2/repositories"

repositories = st.from_regex(
    r"[a-z0-9]{1,4}((\.|_|__|-{1,2})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,4}((\.|_|__|-)[a-z0-9]{1,3})?){0,3}", fullmatch=True
)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
registries = st.from_regex(r"[a-z0-9]{1,5}(\.[a-z]{2,3}){0,2}(:[1-9][0-9]{1,4})?", fullmatch=True)


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    algorithm = draw(st.sampled_from(sorted(HEX_LENGTH)))
    length = HEX_LENGTH[algorithm]
    return Digest(algorithm, draw(st.text("0123456789abcdef", min_size=length, max_size=length)))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (layout.blob_key(SHA256), f"docker/registry/v2/blobs/sha256/8f/{HEX}/data"),
        (layout.blob_key(SHA512), f"docker/registry/v2/blobs/sha512/8f/{HEX * 2}/data"),
        (layout.layer_link_key("team/app", SHA256), f"{REPOSITORIES}/team/app/_layers/sha256/{HEX}/link"),
        (
            layout.revision_link_key("team/app", SHA256),
            f"{REPOSITORIES}/team/app/_manifests/revisions/sha256/{HEX}/link",
        ),
        (layout.tag_current_key("team/app", "7"), f"{REPOSITORIES}/team/app/_manifests/tags/7/current/link"),
        (
            layout.tag_history_key("team/app", "7", SHA256),
            f"{REPOSITORIES}/team/app/_manifests/tags/7/index/sha256/{HEX}/link",
        ),
        (layout.kept_key("team/app", SHA256), f"mirror/v1/kept/team/app/sha256:{HEX}"),
        (layout.tombstone_key("team/app", "7"), "mirror/v1/tombstones/team/app/_tags/7"),
        (layout.image_provenance_key("team/app", SHA256), f"mirror/v1/images/team/app/sha256:{HEX}"),
        (
            layout.blob_provenance_key(SHA256, "127.0.0.1:5000", "team/app"),
            f"mirror/v1/blobs/sha256/{HEX}/127.0.0.1:5000/team/app/_source",
        ),
    ],
)
def test_a_key_is_spelled_as_the_layout_says(key: str, expected: str) -> None:
    assert key == expected


SPELLERS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "blob": (layout.blob_key, ("digest",)),
    "layer": (layout.layer_link_key, ("repository", "digest")),
    "revision": (layout.revision_link_key, ("repository", "digest")),
    "current": (layout.tag_current_key, ("repository", "tag")),
    "history": (layout.tag_history_key, ("repository", "tag", "digest")),
    "kept": (layout.kept_key, ("repository", "digest")),
    "tombstone": (layout.tombstone_key, ("repository", "tag")),
    "image": (layout.image_provenance_key, ("repository", "digest")),
    "source": (layout.blob_provenance_key, ("digest", "registry", "repository")),
}
PARTS: dict[str, st.SearchStrategy[object]] = {
    "repository": repositories,
    "tag": tags,
    "digest": digests(),
    "registry": registries,
}


@dataclass(frozen=True)
class Thing:
    """A kind of object, and what distinguishes two of that kind."""

    kind: str
    identity: tuple[object, ...]

    @property
    def key(self) -> str:
        return SPELLERS[self.kind][0](*self.identity)


@st.composite
def things(draw: st.DrawFn) -> Thing:
    kind = draw(st.sampled_from(sorted(SPELLERS)))
    return Thing(kind, tuple(draw(PARTS[name]) for name in SPELLERS[kind][1]))


@given(things(), things())
def test_different_objects_never_share_a_key_or_a_folder(one: Thing, other: Thing) -> None:
    assert (one.key == other.key) == (one == other)
    assert not one.key.startswith(other.key + "/")
    assert not other.key.startswith(one.key + "/")


@given(repositories, repositories, digests())
def test_nested_repositories_never_share_a_key_or_a_folder(outer: str, inner: str, digest: Digest) -> None:
    for spell in (layout.kept_key, layout.image_provenance_key, layout.layer_link_key, layout.revision_link_key):
        assert not spell(f"{outer}/{inner}", digest).startswith(spell(outer, digest))
    source = layout.blob_provenance_key(digest, "docker.io", outer)
    assert not layout.blob_provenance_key(digest, "docker.io", f"{outer}/{inner}").startswith(source)


@given(repositories, st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), tags)
def test_a_tag_with_the_name_of_a_nested_repository_has_a_tombstone_of_its_own(
    outer: str, inner: str, tag: str
) -> None:
    one, other = layout.tombstone_key(outer, inner), layout.tombstone_key(f"{outer}/{inner}", tag)
    assert not one.startswith(f"{other}/")
    assert not other.startswith(f"{one}/")


@given(things())
def test_every_key_is_valid_on_any_s3_and_any_file_system(thing: Thing) -> None:
    key = thing.key
    assert not key.startswith("/")
    assert not {"", ".", ".."} & set(key.split("/"))
    assert key.isascii()


def test_the_longest_key_fits_into_s3_with_the_longest_prefix() -> None:
    repository = "r" * 255
    longest = [
        layout.tag_history_key(repository, "t" * 128, SHA512),
        layout.blob_provenance_key(SHA512, "h" * 126, "r" * 128),
        layout.kept_key(repository, SHA512),
    ]
    assert max(map(len, longest)) + 400 + len("/") <= 1024


@given(repositories, tags)
def test_the_key_of_a_tag_is_parsed_back(repository: str, tag: str) -> None:
    assert layout.parse_tag_current(layout.tag_current_key(repository, tag)) == (repository, tag)


@given(repositories, tags, digests())
def test_the_other_keys_are_parsed_back(repository: str, tag: str, digest: Digest) -> None:
    assert layout.parse_tag_history(layout.tag_history_key(repository, tag, digest)) == (repository, tag, digest)
    assert layout.parse_revision_link(layout.revision_link_key(repository, digest)) == (repository, digest)
    assert layout.parse_blob(layout.blob_key(digest)) == digest


@given(things())
def test_a_parser_accepts_its_own_kind_of_key_only(thing: Thing) -> None:
    key, kind = thing.key, thing.kind
    assert (layout.parse_tag_current(key) is not None) == (kind == "current")
    assert (layout.parse_tag_history(key) is not None) == (kind == "history")
    assert (layout.parse_revision_link(key) is not None) == (kind == "revision")
    assert (layout.parse_blob(key) is not None) == (kind == "blob")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "docker/registry/v2/repositories/",
        f"{REPOSITORIES}/team/_manifests/tags/current/link",
        f"{REPOSITORIES}/_manifests/tags/7/current/link",
        f"{REPOSITORIES}/Team/_manifests/tags/7/current/link",
        f"{REPOSITORIES}/team/_manifests/tags/.7/current/link",
        f"{REPOSITORIES}/team/_manifests/tags/a/b/current/link",
        f"{REPOSITORIES}/team/_manifests/tags/7/current/link/more",
        f"x/{REPOSITORIES}/team/_manifests/tags/7/current/link",
    ],
)
def test_a_foreign_key_is_no_tag(key: str) -> None:
    assert layout.parse_tag_current(key) is None
