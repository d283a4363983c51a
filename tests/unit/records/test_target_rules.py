"""The JSON of a rule for targets: what is accepted, and which field is named where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from mirror.records.rule_schemas import TARGET_RULE, dump_target
from mirror.records.rules import CANONICAL_TARGET, TagRename, TargetRule


def refusals(document: dict[str, Any]) -> Any:
    with pytest.raises(ValidationError) as refused:
        TARGET_RULE.load(document)
    return refused.value.messages


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({}, CANONICAL_TARGET),
        ({"template": "team/redis:7"}, TargetRule("team/redis:7")),
        ({"strip_prefix": "library"}, TargetRule(strip_prefix="library")),
        ({"replace": [{"from": "/", "to": "-"}]}, TargetRule(replace=(("/", "-"),))),
        ({"tag": {"regex": "^v(.*)", "to": "\\1"}}, TargetRule(tag=TagRename("^v(.*)", "\\1"))),
        ({"tag": {"regex": "^v", "to": ""}}, TargetRule(tag=TagRename("^v", ""))),
        ({"tag_suffix": "-mirrored"}, TargetRule(tag_suffix="-mirrored")),
    ],
)
def test_a_rule_is_read_and_is_the_same_after_it_was_stored(document: dict[str, Any], rule: TargetRule) -> None:
    assert TARGET_RULE.load(document) == rule
    assert TARGET_RULE.load(dump_target(rule)) == rule


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        ({"template": "team/{nam}"}, "template", "the field '{nam}' at character 6 is unknown"),
        ({"template": "team/{name"}, "template", "the brace at character 6 is not closed"),
        ({"tag_suffix": "-x/y"}, "tag_suffix", "No tag has the character at position 3"),
        ({"template": "a:1", "tag_suffix": "x"}, "tag_suffix", "has no {tag}"),
        ({"template": "a:1", "tag": {"regex": "a", "to": ""}}, "tag", "has no {tag}"),
        ({"template": "a:1", "strip_prefix": "library"}, "strip_prefix", "has neither {repository} nor {name}"),
        ({"template": "a:1", "replace": [{"from": "a", "to": "b"}]}, "replace", "has neither {repository} nor {name}"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_for_its_field(document: dict[str, Any], field: str, message: str) -> None:
    [(refused, [said])] = refusals(document).items()
    assert refused == field
    assert message in said


@pytest.mark.parametrize(
    ("rename", "field"),
    [({"regex": "(", "to": "x"}, "regex"), ({"regex": "a", "to": "\\1"}, "to"), ({"regex": "a", "to": "/"}, "to")],
)
def test_a_rewriting_of_tags_that_cannot_work_is_refused_for_its_field(rename: dict[str, str], field: str) -> None:
    assert list(refusals({"tag": rename})["tag"]) == [field]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def loaded(document: dict[str, Any]) -> TargetRule | ValidationError:
    try:
        rule: TargetRule = TARGET_RULE.load(document)
    except ValidationError as refused:
        return refused
    return rule


@given(
    st.dictionaries(
        st.sampled_from(["template", "strip_prefix", "replace", "tag", "tag_suffix", "more"]), json_values, max_size=4
    )
)
def test_any_document_is_a_rule_or_is_refused(document: dict[str, Any]) -> None:
    rule = loaded(document)
    if isinstance(rule, ValidationError):
        assert rule.messages
    else:
        assert TARGET_RULE.load(dump_target(rule)) == rule
