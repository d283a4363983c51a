"""YAML of a user is read with places, in bounds, and without surprises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DocumentMalformed
from mirror.schedules.yaml_reader import MOST_BYTES, read_yaml, read_yaml_stream

TEXT = """\
version: 1
syncs:
  - name: nightly
    every: 6h
    job:
      images: [redis:7, "nginx"]
  - name: weekly
"""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<", min_size=1), inner, max_size=4),
    max_leaves=12,
)


def refusal(text: str) -> str:
    with pytest.raises(DocumentMalformed) as refused:
        read_yaml(text)
    return refused.value.message


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), (1, 1)),
        (("version",), (1, 1)),
        (("syncs", 0), (3, 5)),
        (("syncs", 0, "every"), (4, 5)),
        (("syncs", 0, "job", "images"), (6, 7)),
        (("syncs", 0, "job", "images", 1), (6, 25)),
        (("syncs", 1, "name"), (7, 5)),
        (("syncs", 1, "job", "source"), (7, 5)),  # it is missing, so the place is that of its list's item
        (("syncs", 2), (2, 1)),
    ],
)
def test_every_key_and_item_has_its_place(path: tuple[str | int, ...], place: tuple[int, int]) -> None:
    node = read_yaml(TEXT).at(path)
    assert (node.line, node.column) == place


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("~", None),
        ("", None),
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("No", "No"),
        ("12", 12),
        ("-3", -3),
        ("0x1f", 31),
        ("0o17", 15),
        ("012", 12),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("1:30", "1:30"),
        ("22:22:22", "22:22:22"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("1_000", "1_000"),
        ("9" * 5000, "9" * 5000),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_plain_scalars_have_the_types_of_the_core_schema(text: str, value: object) -> None:
    found = read_yaml(text).plain()
    assert (found, type(found)) == (value, type(value))


def test_a_key_is_the_text_that_was_written() -> None:
    assert read_yaml("on: 1\n1.10: 2\nnull: 3\n").plain() == {"on": 1, "1.10": 2, "null": 3}


def test_a_scalar_keeps_the_text_that_was_written() -> None:
    assert read_yaml("[1.10, 007]").at([0]).text == "1.10"


def test_aliases_and_merge_keys_are_expanded() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nx: {<<: [*base, *more], a: 9}\ny: *base\nz: {<<: *more}"
    found = read_yaml(text).plain()
    assert found["x"] == {"a": 9, "b": 2, "c": 4}
    assert found["y"] == {"a": 1, "b": 2}
    assert found["z"] == {"b": 3, "c": 4}
    assert read_yaml(text).at(["y"]).line == 4
    assert read_yaml(text).at(["x", "c"]).line == 2  # where the merged key stands


def test_a_quoted_merge_key_is_a_key() -> None:
    assert read_yaml('{"<<": 1}').plain() == {"<<": 1}


def test_a_stream_has_several_documents_with_anchors_of_their_own() -> None:
    first, second = read_yaml_stream("a: &x 1\n---\nb: 2\n")
    assert (first.plain(), second.plain(), second.line) == ({"a": 1}, {"b": 2}, 3)
    with pytest.raises(DocumentMalformed, match="line 3, column 4: there is no anchor 'x'"):
        read_yaml_stream("a: &x 1\n---\nb: *x\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is in line 1 already"),
        ("x:\n  <<: 3", "line 2, column 3: the merge key '<<' takes a mapping, or a list of mappings"),
        ("a: *x", "line 1, column 4: there is no anchor 'x' before this alias"),
        ("a: &x [*x]", "line 1, column 8: the alias is within what its anchor 'x' names"),
        ("[a, b]: 1", "line 1, column 1: a key must be a plain text, not an alias, a list or a mapping"),
        ("'': 1", "line 1, column 1: a key is empty"),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4: a tag is not supported here"),
        ("a: !secret b", "line 1, column 4: a tag is not supported here"),
        ("a: !!binary aGk=", "line 1, column 4: a tag is not supported here"),
        ("a: b: c", "line 1, column 5: a second ':' is not allowed in this line"),
        ("a:\n  b: 1\n c: 2", "line 3, column 2: a key was expected here"),
        ("a:\n\t- b", "line 2, column 1: no value begins with this character"),
        ("a: [1, 2\n", "line 2, column 1: a list in brackets is not closed"),
        ('a: "b', "line 1, column 6: the text ends within quotes"),
        ("a: 1\n---\nb: 2", "line 3, column 1: a second document begins here"),
        ("a: \x07", "the text has a control character"),
        ("a: 1\nb: \ud800", "line 2: half of a surrogate pair is no character"),
        ("%YAML 9.9\n--- a", "line 1, column 1: this is no YAML"),
        ("a" * (MOST_BYTES + 1), "the text has more than 1 MiB"),
        ("ä" * (MOST_BYTES // 2 + 1), "the text has more than 1 MiB"),
        ("[" * 50, "line 1, column 41: more than 40 lists and mappings are nested"),
        ("- " * 50 + "a", "line 1, column 81: more than 40 lists and mappings are nested"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize("kind", ["list", "merge"])
def test_a_billion_laughs_are_refused_while_they_are_read(kind: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]" if kind == "list" else "a0: &a0 {x: 1, y: 2, z: 3}"]
    for index in range(1, 30):
        again = ", ".join([f"*a{index - 1}"] * 10)
        lines.append(f"a{index}: &a{index} [{again}]" if kind == "list" else f"a{index}: &a{index} {{k: [{again}]}}")
    assert "more than 200000 values" in refusal("\n".join(lines))


def test_merging_the_same_large_mapping_again_and_again_is_refused() -> None:
    large = ", ".join(f"k{index}: 1" for index in range(2000))
    lines = [f"a: &a {{{large}}}", *(f"b{index}: {{<<: *a}}" for index in range(10_000))]
    assert "more than 200000 values" in refusal("\n".join(lines))


def test_aliases_cannot_nest_deeper_than_the_text() -> None:
    lines = ["a0: &a0 [x]", *(f"a{index}: &a{index} [*a{index - 1}]" for index in range(1, 5000))]
    assert "more than 40 lists and mappings are nested" in refusal("\n".join(lines))


def test_a_refusal_says_where_and_for_which_path() -> None:
    error = DocumentMalformed("it is wrong", 3, 7, "syncs[0].cron")
    assert (error.line, error.column, error.path) == (3, 7, "syncs[0].cron")
    assert error.message == "line 3, column 7, syncs[0].cron: it is wrong"


def test_a_node_does_not_show_its_value() -> None:
    assert "hunter2" not in repr(read_yaml("password: hunter2"))


@given(JSON)
def test_json_is_read_as_json(value: Any) -> None:
    assert read_yaml(json.dumps(value)).plain() == value


@given(st.text(max_size=60) | st.text("ab:-[]{}&*!|>'\"%@`#,? \n\t<", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        documents = read_yaml_stream(text)
    except DocumentMalformed:
        return
    for document in documents:
        assert json.loads(json.dumps(document.plain(), allow_nan=False)) == document.plain()
