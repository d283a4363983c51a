"""Names of targets: what the rules make of a source, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.copying.naming import TargetNamer, needs_digest
from mirror.errors import (
    InvalidInput,
    InvalidReference,
    InvalidTag,
    InvalidTemplate,
    NameTooLong,
    TargetRepeated,
    TargetReserved,
)
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.name_template import TEMPLATE_FIELDS
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.records.rules import CANONICAL_TARGET, TagRename, TargetRule
from tests.unit.oci.generated import digests, references

DIGEST = Digest("sha256", "0123456789abcdef" * 4)
NAMER = TargetNamer("mirror.example", datetime(2026, 11, 28, 23, 30, tzinfo=timezone(timedelta(hours=-2))))


def target(rule: TargetRule, source: str, digest: Digest | None = None) -> str:
    return str(NAMER.target(rule, Reference.parse(source), digest))


@pytest.mark.parametrize(
    ("rule", "source", "expected"),
    [
        (CANONICAL_TARGET, "redis:7", "docker.io/library/redis:7"),
        (CANONICAL_TARGET, "localhost:5000/a/b:1", "localhost_5000/a/b:1"),
        (CANONICAL_TARGET, f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (CANONICAL_TARGET, f"quay.io/a/b:1@{DIGEST}", "quay.io/a/b:1"),
        (TargetRule("team/redis:7"), "redis:latest", "team/redis:7"),
        (TargetRule("team/redis"), "redis:6", "team/redis:6"),
        (TargetRule("team/redis"), f"redis@{DIGEST}", f"team/redis@{DIGEST}"),
        (TargetRule("team/redis:pinned"), f"redis@{DIGEST}", "team/redis:pinned"),
        (TargetRule("team/{name}:{tag}"), "quay.io/prometheus/node-exporter:v1", "team/node-exporter:v1"),
        (TargetRule("hub/{repository}"), "bitnami/redis:7", "hub/bitnami/redis:7"),
        (TargetRule("mirror/{registry}/{name}"), "localhost:5000/a/b:1", "mirror/localhost_5000/b:1"),
        (TargetRule("team/{name}:{tag}-{digest12}"), f"redis:7@{DIGEST}", "team/redis:7-0123456789ab"),
        (TargetRule("{date}/{name}"), "redis:7", "20261129/redis:7"),
        (TargetRule("team/{repository}", strip_prefix="library"), "redis:7", "team/redis:7"),
        (TargetRule("team/{repository}", strip_prefix="library/"), "redis:7", "team/redis:7"),
        (
            TargetRule("team/{repository}", strip_prefix="bitnami"),
            "bitnamilegacy/redis:7",
            "team/bitnamilegacy/redis:7",
        ),
        (TargetRule("team/{repository}", strip_prefix="a/b"), "quay.io/a/b:7", "team/a/b:7"),
        (TargetRule("team/{repository}", replace=(("-", "_"), ("a_", "b-"))), "quay.io/a-a-c:1", "team/b-b-c:1"),
        (TargetRule("team/{name}", replace=(("/", "-"),)), "quay.io/a/b:1", "team/a-b:1"),
        (TargetRule("team/{name}", tag=TagRename(r"^v(\d+).*", r"\1")), "quay.io/a/b:v12.3", "team/b:12"),
        (TargetRule("team/{name}", tag=TagRename(r"^v", ""), tag_suffix="-x"), "quay.io/a/b:v1", "team/b:1-x"),
        (TargetRule("team/{name}", tag=TagRename(r"^v", "")), f"quay.io/a/b@{DIGEST}", f"team/b@{DIGEST}"),
    ],
)
def test_a_target_is_made_from_its_source(rule: TargetRule, source: str, expected: str) -> None:
    assert target(rule, source) == expected


@pytest.mark.parametrize(
    ("rule", "source", "error"),
    [
        (TargetRule("team/{name}:{tag}", tag_suffix="x" * 128), "redis:7", InvalidTag),
        (TargetRule("team/{name}", tag=TagRename(".*", "")), "redis:7", InvalidTag),
        (TargetRule("team/{name}", tag=TagRename("^", ".")), "redis:7", InvalidTag),
        (TargetRule("{repository}", replace=(("library/redis", ""),)), "redis:7", InvalidReference),
        (TargetRule("team//{name}"), "redis:7", InvalidReference),
        (TargetRule("Team/{name}"), "redis:7", InvalidReference),
        (TargetRule(f"team/{{name}}@{DIGEST}"), "redis:7", InvalidReference),
        (TargetRule("team/{name}", replace=(("e", "@"),)), "redis:7", InvalidReference),
        (TargetRule("team/{name}-{tag}"), f"redis@{DIGEST}", InvalidTemplate),
        (TargetRule("team/{name}", tag_suffix="-x"), f"redis@{DIGEST}", InvalidTemplate),
        (TargetRule("team/{name}:{digest12}"), "redis:7", InvalidTemplate),
        (TargetRule("quay.io/{name}"), "redis:7", TargetReserved),
        (TargetRule("library/{name}"), "quay.io/a/redis:7", TargetReserved),
        (TargetRule("{repository}/" * 7 + "{name}"), "quay.io/" + "a" * 30 + ":1", NameTooLong),
        (TargetRule("{repository}", replace=(("a", "a" * 255),) * 20), "quay.io/aaaa:1", NameTooLong),
    ],
)
def test_a_target_that_breaks_a_rule_is_refused(rule: TargetRule, source: str, error: type[InvalidInput]) -> None:
    with pytest.raises(error):
        target(rule, source)


def test_only_a_digest_in_the_name_must_be_known_before() -> None:
    assert needs_digest(TargetRule("team/{name}:{tag}-{digest12}"))
    assert not needs_digest(CANONICAL_TARGET)
    assert target(TargetRule("team/{name}:{digest12}"), "redis:7", DIGEST) == "team/redis:0123456789ab"


def test_a_tag_with_an_invalid_target_does_not_keep_the_others_from_theirs() -> None:
    images = [(RepositoryPattern.parse("redis").tagged(tag), None) for tag in ("7", "x" * 128)]
    first, second = NAMER.assign(images, [TargetRule("team/redis", tag_suffix="-x")])
    assert first == (images[0][0], LocalImage("team/redis", "7-x"))
    assert second[0] == images[1][0]
    assert isinstance(second[1], InvalidTag)


def test_each_rule_gives_an_image_one_more_target() -> None:
    source = Reference.parse("redis:7")
    rules = [TargetRule("team/{name}"), TargetRule("team/{name}:stable")]
    assert NAMER.assign([(source, None)], rules) == [
        (source, LocalImage("team/redis", "7")),
        (source, LocalImage("team/redis", "stable")),
    ]


@pytest.mark.parametrize(
    ("sources", "templates", "named"),
    [
        (
            ["redis:7", "bitnami/redis:7"],
            ["team/{name}"],
            "'docker.io/library/redis:7' and 'docker.io/bitnami/redis:7'",
        ),
        (["redis:7", "redis:8"], ["team/{name}:new"], "'docker.io/library/redis:7' and 'docker.io/library/redis:8'"),
        (["redis:7"], ["team/{name}", "team/redis:{tag}"], "'docker.io/library/redis:7' twice"),
    ],
)
def test_two_images_with_one_target_are_refused_and_both_are_named(
    sources: list[str], templates: list[str], named: str
) -> None:
    with pytest.raises(TargetRepeated, match=named):
        NAMER.assign([(Reference.parse(s), None) for s in sources], [TargetRule(t) for t in templates])


@pytest.mark.parametrize(
    ("template", "source", "error"),
    [
        ("quay.io/{name}", "docker.io/bitnami/*", TargetReserved),
        ("library/{name}", "quay.io/*", TargetReserved),
        ("team//{name}", "docker.io/bitnami/*", InvalidReference),
        ("a" * 250 + "/{name}", "docker.io/bitnami/*", NameTooLong),
        ("team/{name}", "docker.io/bitnami/*", None),
        ("team/{name}-{digest12}", "harbor.example/*", None),
        ("library/{name}", "docker.io/library/*", None),
        ("team{repository}", "redis", None),
    ],
)
def test_a_rule_that_no_image_of_a_source_can_use_is_refused_at_once(
    template: str, source: str, error: type[InvalidInput] | None
) -> None:
    rule, pattern = TargetRule(template), RepositoryPattern.parse(source)
    if error is None:
        NAMER.require_possible(rule, pattern)
    else:
        with pytest.raises(error):
            NAMER.require_possible(rule, pattern)


parts = st.sampled_from(["team", "/", ":", "-", ".", "@", "A", *(f"{{{field}}}" for field in TEMPLATE_FIELDS)])
replacements = st.tuples(
    st.sampled_from(["a", "/", "-", "0"]), st.sampled_from(["", "b", "/", "--", "aa", "@", ":", "{tag}"])
)
renames = st.builds(
    TagRename,
    st.sampled_from(["^(.)", "(.+)$", "[0-9]+", "(a)|(b)", ""]),
    st.sampled_from(["", "v", "x-", "."]),
)
rules = st.builds(
    TargetRule,
    template=st.lists(parts, min_size=1, max_size=6).map("".join),
    strip_prefix=st.sampled_from(["", "library", "a/", "/"]),
    replace=st.lists(replacements, max_size=3).map(tuple),
    tag=st.none() | renames,
    tag_suffix=st.sampled_from(["", "-x", "." * 120]),
)


def named(namer: TargetNamer, rule: TargetRule, source: Reference, digest: Digest) -> LocalImage | InvalidInput:
    try:
        return namer.target(rule, source, digest)
    except InvalidInput as refused:
        return refused


@given(rules, references(), digests)
def test_every_result_is_a_valid_name_or_a_refusal_that_says_why(
    rule: TargetRule, source: Reference, digest: Digest
) -> None:
    made = named(NAMER, rule, source, digest)
    if isinstance(made, InvalidInput):
        assert made.message.isprintable()
        assert made.hint
        return
    assert LocalImage.parse(str(made)) == made
    assert len(f"mirror.example/{made.repository}") <= 255
    assert (made.tag is None) == (made.digest is not None)
    assert made.digest in (None, source.digest)
    assert made.registry_component in (None, source.registry.replace(":", "_"))


@given(rules, references(), digests)
def test_the_zone_of_a_clock_does_not_change_a_name(rule: TargetRule, source: Reference, digest: Digest) -> None:
    elsewhere = TargetNamer("mirror.example", NAMER.created_at.astimezone(UTC))
    one, other = named(NAMER, rule, source, digest), named(elsewhere, rule, source, digest)
    assert one == other or str(one) == str(other)


@given(rules, references())
def test_what_is_refused_for_a_whole_source_is_refused_for_each_image(rule: TargetRule, source: Reference) -> None:
    """The rules that change neither tags nor repositories, because only those are the same for each image."""
    plain = TargetRule(rule.template, tag_suffix=rule.tag_suffix)
    image = Reference(source.registry, source.repository, source.tag or "1")
    if isinstance(named(NAMER, plain, image, DIGEST), InvalidInput):
        return
    NAMER.require_possible(plain, RepositoryPattern(source.registry, source.repository))
    parent = source.repository.rpartition("/")[0]
    NAMER.require_possible(plain, RepositoryPattern(source.registry, parent, is_wildcard=True))
