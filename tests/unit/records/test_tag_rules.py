"""The JSON of rules for tags: what is wrong with a pattern or a range is said where it stands, with its position."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from mirror.errors import RegexUnavailable
from mirror.oci import tag_pattern
from mirror.records.rule_schemas import TAG_RULES, TARGET_RULE


@pytest.mark.parametrize(
    ("rules", "field", "problem"),
    [
        ({"deny": [{"glob": "*"}, {"regex": "a(?=b)"}]}, ["deny", 1], "at character 2, invalid perl operator '(?='"),
        ({"allow": [{"regex": "é"}]}, ["allow", 0], "character 1 is not ASCII"),
        ({"allow": [{"glob": "1.[0-9"}]}, ["allow", 0], "the '[' at character 3 is not closed"),
        ({"allow": [{"exact": "a:b"}]}, ["allow", 0], "'a:b' is not a valid tag"),
        ({"allow": [{"exact": "a", "glob": "b"}]}, ["allow", 0], "Write one of"),
        ({"semver": ">=3.18 <<4"}, ["semver"], "at character 9, write '<='"),
        ({"semver": ""}, ["semver"], "at character 1, a version is expected"),
    ],
)
def test_a_mistake_in_a_rule_is_an_error_of_its_field(rules: dict[str, Any], field: list[Any], problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TAG_RULES.load(rules)
    found: Any = refused.value.messages
    for step in field:
        found = found[step]
    assert any(problem in message and message.endswith(".") for message in found)


def test_the_expression_of_a_rename_is_checked_too() -> None:
    with pytest.raises(ValidationError) as refused:
        TARGET_RULE.load({"tag": {"regex": "(a", "to": "b"}})
    assert "at character 2, missing )" in str(refused.value.messages)


def test_what_is_dumped_is_loaded_again() -> None:
    rules = {
        "allow": [{"regex": "[0-9.]+"}, {"exact": "latest"}],
        "deny": [{"glob": "*-rc*"}],
        "semver": ">=3.18 <4 || *-slim",
        "latest": {"count": 3, "by": "numeric"},
    }
    assert TAG_RULES.dump(TAG_RULES.load(rules)) == rules


def test_without_re2_an_expression_is_refused_by_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_pattern, "re2", None)
    with pytest.raises(RegexUnavailable):
        TAG_RULES.load({"allow": [{"regex": "an expression that is not compiled yet"}]})
