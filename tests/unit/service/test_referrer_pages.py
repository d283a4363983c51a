"""Pages of lists of referrers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_ENTRIES, MAX_MANIFEST_SIZE
from mirror.oci.referrer import read_list
from service.v2.referrers import make_page

Entries = list[dict[str, Any]]


def entry(name: str, kind: str | None = "a/a", note: str = "") -> dict[str, Any]:
    found = {"mediaType": media_types.OCI_MANIFEST, "digest": str(Digest.of(name.encode())), "size": 1}
    return {**found, **({"artifactType": kind} if kind else {}), "annotations": {"note": note}}


def pages(entries: Entries, wanted: str | None = None, size: int = MAX_ENTRIES) -> list[Entries]:
    found, after = [], None
    while True:
        page = make_page(entries, wanted, after=after, size=size)
        read_list(page.body, what="it")  # which is at most 4 MiB
        found.append(json.loads(page.body)["manifests"])
        if page.last is None:
            return found
        after = page.last


def test_a_list_as_large_as_any_that_the_mirror_writes_is_one_page() -> None:
    """go-containerregistry, and so cosign, reads one page only."""
    entries = [entry(str(number)) for number in range(MAX_ENTRIES)]
    assert pages(entries) == [entries]


def test_a_page_has_at_most_4_mib() -> None:
    """Entries that were completed may have more than any list."""
    large = [entry(str(number), note="a" * (MAX_MANIFEST_SIZE // 2 - 1000)) for number in range(5)]
    assert pages(large) == [large[:2], large[2:4], large[4:]]


def test_an_entry_that_fills_a_page_does_not_end_the_list() -> None:
    huge = entry("huge", note="a" * MAX_MANIFEST_SIZE)
    page = make_page([huge, entry("next")], None, after=None, size=MAX_ENTRIES)
    assert (json.loads(page.body)["manifests"], page.last) == ([huge], huge["digest"])


@given(st.lists(st.sampled_from(["a/a", "b/b", None])), st.integers(1, 5), st.sampled_from(["a/a", "b/b", None]))
def test_all_pages_together_have_each_wanted_entry_once_in_order(
    kinds: list[str | None], size: int, wanted: str | None
) -> None:
    entries = [entry(str(number), kind) for number, kind in enumerate(kinds)]
    found = pages(entries, wanted, size)
    assert [one for page in found for one in page] == [
        one for one in entries if wanted in (None, one.get("artifactType"))
    ]
    assert [len(page) for page in found[:-1]] == [size] * (len(found) - 1)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 3))
def test_a_page_goes_on_where_the_one_before_ended_also_if_the_list_has_grown(old: int, new: int, size: int) -> None:
    entries = [entry(str(number)) for number in range(old + new)]
    first = make_page(entries[:old], None, after=None, size=size)
    if first.last is not None:
        rest = make_page(entries, None, after=first.last, size=MAX_ENTRIES)
        assert json.loads(first.body)["manifests"] + json.loads(rest.body)["manifests"] == entries
