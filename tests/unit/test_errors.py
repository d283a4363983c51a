"""The one tree of errors: what every one of them has, and that the reference page lists exactly these."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from mirror import errors
from mirror.errors import MirrorError, every_error, quoted
from service.http.problems import codes_of_requests

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
SHARED = {"MANIFEST_UNKNOWN": 2, "BLOB_UNKNOWN": 2, "TOOMANYREQUESTS": 2, "SOURCE_UNREACHABLE": 2, "SOURCE_FAILED": 3}
"""Codes of two classes. Of the distribution spec: the source has it not, or the mirror has it not; one request too
many, or too few left. And a registry that cannot be reached, or fails, may be known to work, or not. One that fails may
be wrong, or too slow."""


def documented() -> list[list[str]]:
    """The rows of the page's tables that begin with a code."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[A-Z_0-9]+` \|", line)]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def all_statuses() -> dict[str, set[int]]:
    """Every code there is, with the statuses that it has: of failures, and of what is wrong with a request."""
    found: dict[str, set[int]] = {}
    for code, status in [
        *((cls.code, cls.status) for cls in every_error()),
        *((code, status) for status, code, _ in codes_of_requests()),
    ]:
        found.setdefault(code, set()).add(status)
    return found


@pytest.mark.parametrize("cls", every_error())
def test_every_error_has_a_code_a_hint_a_status_and_says_whether_waiting_helps(cls: type[MirrorError]) -> None:
    assert re.fullmatch(r"[A-Z0-9]+(_[A-Z0-9]+)*", cls.code)
    assert cls.hint.endswith(".")
    assert len(cls.hint) > len("Do this.")
    assert isinstance(cls.retryable, bool)
    assert 400 <= cls.status <= 599
    assert not cls.__name__.endswith("Error") or cls.__name__ == "InternalError"


def test_every_class_of_the_tree_is_a_family_or_has_a_code() -> None:
    """A family has no code of its own: nobody raises it."""
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MirrorError)}
    families = classes - set(every_error())
    assert all(cls.__subclasses__() and not hasattr(cls, "code") for cls in families)


def test_a_code_means_one_thing() -> None:
    assert {code: n for code, n in Counter(cls.code for cls in every_error()).items() if n > 1} == SHARED


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"── (\w+) +([A-Z_]+)$", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {cls.__name__: cls.code for cls in every_error()}


def test_the_reference_page_has_one_row_per_code_and_no_other() -> None:
    assert sorted(row[0] for row in documented()) == sorted(all_statuses())


def test_the_reference_page_says_status_and_retryability_as_they_are() -> None:
    retryable = {cls.code for cls in every_error() if cls.retryable}
    said = {row[0]: ({int(status) for status in row[1].split(", ")}, row[2]) for row in documented()}
    assert said == {code: (each, "yes" if code in retryable else "no") for code, each in all_statuses().items()}


def test_every_row_of_the_reference_page_says_what_it_means_and_what_to_do() -> None:
    for _, _, _, meaning, advice in documented():
        assert meaning.endswith(".")
        assert advice.endswith(".")


def test_a_hint_may_be_given_for_one_case() -> None:
    assert errors.InvalidReference("x", "of a reason", hint="Do that.").hint == "Do that."
    assert errors.InvalidReference("x", "of a reason").hint == errors.InvalidReference.hint


def test_a_quoted_text_is_short_and_has_no_control_characters() -> None:
    assert quoted("a\n\x1b[31m\u202e") == r"'a\n\x1b[31m\u202e'"
    assert quoted("x" * 161) == f"'{'x' * 160}…'"
    assert quoted("\ud800").isprintable()
