"""Templates for names and the rewriting of tags: what they accept, and that they evaluate nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import InvalidTemplate
from mirror.oci.name_template import TEMPLATE_FIELDS, NameTemplate, TagRewrite

VALUES = {field: f"<{field}>" for field in TEMPLATE_FIELDS}
texts = st.text("ab/:@-._", min_size=1, max_size=6)
nearly_templates = st.lists(
    st.sampled_from(
        ["{", "}", "{{", "}}", "{tag}", "{name}", "{0}", "{tag.x}", "{tag!r}", "{name:>9}", "%s", "$x", "\\1"]
    )
    | texts,
    max_size=6,
).map("".join)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("team/redis", "team/redis:<tag>"),
        ("team/redis:7", "team/redis:7"),
        ("team/{name}", "team/<name>:<tag>"),
        ("{registry}/{repository}:{tag}-{date}", "<registry>/<repository>:<tag>-<date>"),
        ("a:b/{name}", "a:b/<name>:<tag>"),
        ("{name}:{digest12}", "<name>:<digest12>"),
        ("x@sha256:aa", "x@sha256:aa"),
    ],
)
def test_a_template_is_filled_and_gets_the_tag_if_it_has_none(text: str, filled: str) -> None:
    assert NameTemplate.parse(text).fill(VALUES) == filled


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it has 0 characters, and 1 to 500 are allowed"),
        ("{tag}" * 101, "it has 505 characters, and 1 to 500 are allowed"),
        ("team/{nam}:{tag}", "the field '{nam}' at character 6 is unknown"),
        ("team/{}", "the field '{}' at character 6 is unknown"),
        ("team/{tag.__class__}", "the field '{tag.__class__}' at character 6 is unknown"),
        ("team/{tag!r}", "the field '{tag!r}' at character 6 is unknown"),
        ("team/{TAG}", "the field '{TAG}' at character 6 is unknown"),
        ("team/{name", "the brace at character 6 is not closed"),
        ("team/name}", "the brace at character 10 closes nothing"),
        ("team/{{name}}", "the brace at character 6 is not closed"),
        ("team/{name}}", "the brace at character 12 closes nothing"),
    ],
)
def test_a_malformed_template_is_refused_with_the_place_of_the_mistake(text: str, problem: str) -> None:
    with pytest.raises(InvalidTemplate) as refused:
        NameTemplate.parse(text)
    assert refused.value.reason == problem


@pytest.mark.parametrize(
    ("text", "repository"),
    [
        ("team/{name}", "team/<name>"),
        ("team/{name}:{tag}", "team/<name>"),
        ("{repository}:{tag}", "<repository>"),
        ("team/{name}:{tag}-x", None),
        ("team/{tag}:{tag}", None),
        ("team/{name}:7", None),
    ],
)
def test_only_a_template_that_ends_in_the_tag_of_its_source_can_do_without_it(
    text: str, repository: str | None
) -> None:
    found = NameTemplate.parse(text).repository
    assert (found.fill(VALUES) if found else None) == repository


def test_a_field_without_a_value_is_named() -> None:
    with pytest.raises(InvalidTemplate, match=r"nothing for its field \{digest12\}"):
        NameTemplate.parse("{name}:{digest12}").fill({"name": "redis"})


def parsed(text: str) -> NameTemplate | InvalidTemplate:
    try:
        return NameTemplate.parse(text)
    except InvalidTemplate as refused:
        return refused


@given(nearly_templates)
def test_any_text_is_a_template_or_is_refused_with_a_reason(text: str) -> None:
    found = parsed(text)
    if isinstance(found, InvalidTemplate):
        assert found.reason
        assert found.message.isprintable()
    else:
        assert found.fields <= set(TEMPLATE_FIELDS)


@given(st.dictionaries(st.sampled_from(TEMPLATE_FIELDS), nearly_templates), texts)
def test_what_was_put_in_is_not_searched_for_fields_again(values: dict[str, str], between: str) -> None:
    template = NameTemplate.parse("".join(f"{between}{{{field}}}" for field in values) + ":")
    assert template.fill(values) == "".join(f"{between}{value}" for value in values.values()) + ":"


@pytest.mark.parametrize(
    ("regex", "to", "tag", "rewritten"),
    [
        (r"^v(\d+)\.(\d+).*$", r"\1.\2", "v1.27.3", "1.27"),
        (r"^v", "", "v1.27.3", "1.27.3"),
        (r"-alpine", "-musl", "3-alpine-alpine", "3-musl-alpine"),
        (r"x", "y", "1.27", "1.27"),
        (r"(a)|(b)", r"<\2".replace("<", "-"), "a", "-"),
        (r"^", "pre-", "1", "pre-1"),
        (r"(?i)RC(\d)", r"\0_\1", "1-rc2", "1-rc2_2"),
        (r"(a)", r"\10", "a", "a0"),
    ],
)
def test_the_first_match_in_a_tag_is_replaced(regex: str, to: str, tag: str, rewritten: str) -> None:
    assert TagRewrite.parse(regex, to).apply(tag) == rewritten


@pytest.mark.parametrize(
    ("regex", "to", "problem"),
    [
        ("(a)", r"\1-\2", "no group \\\\2, at character 4"),
        ("a", r"\1", "no group \\\\1, at character 1"),
        ("a", "x\\", "A backslash needs a digit after it, at character 2"),
        ("a", r"\g<0>", "A backslash needs a digit after it, at character 1"),
        ("(a)", r"\1/x", "No tag has the character at position 3"),
        ("(", "x", "missing \\)"),
        (r"(?=a)", "x", "invalid perl operator"),
    ],
)
def test_a_malformed_replacement_is_refused_with_the_place_of_the_mistake(regex: str, to: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TagRewrite.parse(regex, to)


def test_an_expression_that_backtracks_takes_no_time() -> None:
    """`re` would take longer than the age of the universe."""
    assert TagRewrite.parse("(a+)+$", "x").apply("a" * 127 + "!") == "a" * 127 + "!"
