"""The tree of errors: what each error has, and that the reference page lists exactly these."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from mirror import errors
from mirror.errors import MirrorError, SourceError, listed, quoted
from service.http.problems import codes_of_requests
from tests.support.error_classes import every_error

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
SHARED = {
    "MANIFEST_UNKNOWN": 2,
    "BLOB_UNKNOWN": 2,
    "NAME_UNKNOWN": 2,
    "TOOMANYREQUESTS": 2,
    "SOURCE_UNREACHABLE": 2,
    "SOURCE_FAILED": 3,
    "PRECONDITION_FAILED": 2,
    "FILE_INVALID": 2,
}
"""Codes that several classes share, with the number of classes.

The distribution spec has one code for a manifest, a blob or a repository that the source does not have, and that the
mirror does not have. It has one code for too many requests, and for a pull limit that is used up. A registry that
cannot be reached, or that fails, may be known to work. One that fails may be too slow. A file that cannot be
read has one problem, and one that can be read may have many.
"""


def documented() -> list[list[str]]:
    """Return the rows of the page's tables that begin with a code."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| `[A-Z_0-9]+` \|", line)]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def all_statuses() -> dict[str, set[int]]:
    """Return each code with its statuses: those of the error classes, and those of malformed requests."""
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
    """A family has no code of its own, and is never raised."""
    classes = {cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MirrorError)}
    families = classes - set(every_error())
    assert all(cls.__subclasses__() and not hasattr(cls, "code") for cls in families)


def test_only_known_codes_belong_to_several_classes() -> None:
    assert {code: n for code, n in Counter(cls.code for cls in every_error()).items() if n > 1} == SHARED


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"── (\w+): +([A-Z_]+)$", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {cls.__name__: cls.code for cls in every_error()}


def test_the_reference_page_has_one_row_per_code_and_no_other() -> None:
    assert sorted(row[0] for row in documented()) == sorted(all_statuses())


def test_the_reference_page_has_the_status_and_retryability_of_every_code() -> None:
    retryable = {cls.code for cls in every_error() if cls.retryable}
    said = {row[0]: ({int(status) for status in row[1].split(", ")}, row[2]) for row in documented()}
    assert said == {code: (each, "yes" if code in retryable else "no") for code, each in all_statuses().items()}


def test_every_row_of_the_reference_page_says_what_it_means_and_what_to_do() -> None:
    for _, _, _, meaning, advice in documented():
        assert meaning.endswith(".")
        assert advice.endswith(".")


def test_the_reference_page_lists_every_reason_for_which_a_job_waits() -> None:
    section = PAGE.read_text(encoding="utf-8").split("### What a job waits for\n", 1)[1].split("\n## ")[0]
    header, *listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert header == "reason"
    no_process = ["no_worker", "no_scheduler"]
    assert sorted(listed) == sorted([*no_process, *(cls.waits_for for cls in every_error() if cls.waits_for)])


def test_a_hint_may_be_given_for_one_case() -> None:
    assert errors.InvalidReference("x", "of a reason", hint="Do that.").hint == "Do that."
    assert errors.InvalidReference("x", "of a reason").hint == errors.InvalidReference.hint


def test_every_error_is_exported_by_its_package() -> None:
    assert {cls.__name__ for cls in every_error()} <= set(errors.__all__)


def test_every_error_says_how_long_a_task_waits_for_it() -> None:
    assert all(cls.retry_after > 0 for cls in every_error())
    assert all(cls.retryable for cls in every_error() if cls.waits_for)
    assert all(0 < cls.patience <= 30 * 24 * 3600 for cls in every_error())
    assert errors.RegistryDown("x", "It is down", 7.0).retry_after == 7.0
    assert errors.RateLimited("x", 7.0).retry_after == 7.0
    assert errors.QuotaExhausted("x", 7.0).retry_after == 7.0
    assert 5 <= errors.MemoryBusy("x:1").retry_after <= 15


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.RateLimited("docker.io", 12.2), 13),
        (errors.RateLimited("docker.io", 0), 1),
        (errors.TagBusy("a:1"), 2),
        (errors.BlobBeingDeleted("sha256:x"), 2),
        (errors.StorageUnavailable("be reached", "gone"), 5),
        (errors.RedisUnavailable(), 5),
        (errors.CatalogRebuilding(), 5),
        (errors.StorageRefused("be read", "AccessDenied"), None),
        (errors.StorageDamaged("key", "it is empty"), None),
        (errors.ImageNotHeld("a:1"), None),
    ],
)
def test_a_temporary_error_says_when_a_client_should_try_again(error: MirrorError, seconds: int | None) -> None:
    assert error.http_retry_after == seconds


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (errors.SourceUnreachable("x", "its name is unknown"), {"transient"}),
        (errors.SourceUnreachable("x", "no answer", timed_out=True), {"transient", "overloaded"}),
        (errors.SourceUnreachable("x", "no answer", out_of_time=True), {"out_of_time"}),
        (errors.SourceTooSlow("x", "it stopped"), {"responded", "transient", "overloaded"}),
        (errors.SourceTooSlow("x", "it stopped", out_of_time=True), {"responded", "out_of_time", "overloaded"}),
        (errors.AnswerTruncated("x", "a blob"), {"responded", "transient"}),
        (errors.RateLimited("x", 1), {"responded", "overloaded"}),
        (errors.SourceFailed("x", "it answered 400"), {"responded"}),
        (errors.RegistryDown("x", "It is down", 1), set()),
        (errors.RegistryFailing("x", "It fails", 1), {"responded"}),
    ],
)
def test_an_error_of_a_source_says_what_its_caller_may_do(error: SourceError, facts: set[str]) -> None:
    names = ("responded", "transient", "overloaded", "out_of_time")
    assert {name for name in names if getattr(error, name)} == facts
    assert error.registry == "x"


def test_the_reason_of_an_error_is_its_message_without_the_subject() -> None:
    assert errors.SourceFailed("x", "it answered 500").reason == "it answered 500"
    assert errors.StorageFull("write", "its disk is full").reason == "its disk is full"
    assert errors.Denied("x", "a/b").reason == "The registry x does not allow reading 'a/b'"


@pytest.mark.parametrize(("platform", "shown"), [("linux/amd64", "for linux/amd64"), ("", "(no named platform)")])
def test_a_missing_child_of_an_index_is_told_apart_from_a_missing_image(platform: str, shown: str) -> None:
    child = errors.ManifestUnknown.of_child("sha256:x", platform, "x.com/a:1")
    assert shown in child.message == child.reason == str(child)
    assert "'x.com/a:1'" in child.message
    assert (child.is_child, errors.ManifestUnknown("x.com/a:1").is_child) == (True, False)


def test_a_quoted_text_is_short_and_has_no_control_characters() -> None:
    assert quoted("a\n\x1b[31m\u202e") == r"'a\n\x1b[31m\u202e'"
    assert quoted("x" * 161) == f"'{'x' * 160}…'"
    assert quoted("\ud800").isprintable()


def test_a_message_lists_a_bounded_number_of_names() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(map(str, range(5)), most=3) == "0, 1, 2 and 2 more"
    assert listed([]) == ""
    assert len(listed(["x" * 10_000] * 10_000)) < 20 * 200
