"""The bounds of a list of pages, and the header Link, for any input."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from mirror.errors import ListingTooLarge, SourceFailed
from mirror.http.deadlines import PendingRequest, current_deadline, never_canceled
from mirror.http.response import Headers, Response
from mirror.registry.pages import MAX_EMPTY_PAGES, MAX_PAGES, Page, PagedList, next_query
from mirror.registry.token_server import Scope
from mirror.registry.vendors import _VENDORS, KNOWN_APIS
from mirror.settings.parsers import LISTING_VENDORS

URL = "https://registry.example:8443/v2/team/app/tags/list?n=1000"


def response(*links: str) -> Response:
    """A response from `URL` whose header Link has these lines."""
    fields = HTTPHeaderDict()
    for link in links:
        fields.add("Link", link)
    request = PendingRequest(current_deadline())
    return Response("registry.example:8443", 200, Headers(fields), Mock(), request, never_canceled, URL)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_all_entries_come_in_order_unless_too_many_pages_in_a_row_are_empty(filled: list[bool]) -> None:
    pages = [[n, -n] if is_filled else [] for n, is_filled in enumerate(filled)]

    def fetch(request: str) -> Page:
        number = int(request)
        return Page(pages[number], f"{number + 1}" if number + 1 < len(pages) else None)

    entries = PagedList("r", "tags of r/a").entries("0", fetch)
    too_empty = any(not any(pages[n : n + MAX_EMPTY_PAGES + 1]) for n in range(len(pages) - MAX_EMPTY_PAGES))
    if too_empty:
        with pytest.raises(SourceFailed, match="empty"):
            list(entries)
    else:
        assert list(entries) == [entry for page in pages for entry in page]


@given(st.integers(0, 20), st.integers(1, 20))
def test_any_circle_of_pages_is_found(start: int, period: int) -> None:
    def following(request: str) -> Page:
        number = int(request)
        return Page([number], f"{number + 1 if number < start + period - 1 else start}")

    read: list[int] = []
    with pytest.raises(SourceFailed, match="circle"):
        read.extend(PagedList("r", "tags of r/a").entries("0", following))
    assert read == list(range(start + period))


def test_a_list_never_has_more_pages_than_the_bound() -> None:
    numbers = count(1)
    with pytest.raises(ListingTooLarge, match=f"more than {MAX_PAGES} pages"):
        list(PagedList("r", "tags of r/a").entries("0", lambda _: Page([number := next(numbers)], f"{number}")))
    assert next(numbers) == MAX_PAGES + 1


@pytest.mark.parametrize(("total", "complete"), [(None, True), (0, True), (2, True), (3, False)])
def test_a_list_reaches_its_stated_length(total: int | None, *, complete: bool) -> None:
    entries = PagedList("r", "repositories of r").entries("0", lambda _: Page(["a", "b"], None, total))
    if complete:
        assert list(entries) == ["a", "b"]
    else:
        with pytest.raises(SourceFailed, match="after 2 of 3 entries"):
            list(entries)


@pytest.mark.parametrize(
    ("links", "query"),
    [
        ((), None),
        (("",), None),
        (('</v2/team/app/tags/list?last=b&n=2>; rel="next"',), "last=b&n=2"),
        (("<?last=b>;rel=next",), "last=b"),
        (("<https://registry.example:8443/x?last=b>; rel=next",), "last=b"),
        (("<https://REGISTRY.example:8443/x?last=b>; REL=Next",), "last=b"),
        (("</x?last=a,b;c>; rel=next",), "last=a,b;c"),
        (("</x?last=b>; title=\"a, b\"; rel='x'; rel=next",), None),
        (('</x?last=b>; rel="prev next"',), "last=b"),
        (('</x?last=b>; rel="prev"',), None),
        (('</x?last=a>; rel="prev"', '</x?last=b>; rel="next"'), "last=b"),
        (("</x?last=b>; rel=next, </x?last=b>; rel=next",), "last=b"),
    ],
)
def test_the_link_to_the_next_page_is_found(links: tuple[str, ...], query: str | None) -> None:
    assert next_query(response(*links), "tags of r/a") == query


@given(st.lists(st.text(st.characters(codec="latin-1", exclude_characters="\r\n")), max_size=3))
def test_no_link_raises_anything_but_a_failure_of_the_registry(links: list[str]) -> None:
    with suppress(SourceFailed):
        assert next_query(response(*links), "tags of r/a") != ""


def test_a_scope_is_written_as_token_servers_expect_it() -> None:
    assert str(Scope("r", "team/app")) == "repository:team/app:pull"
    assert str(Scope("r", "team", is_catalog=True)) == "registry:catalog:*"


def test_every_vendor_of_the_settings_is_known() -> None:
    assert tuple(sorted(_VENDORS)) == LISTING_VENDORS
    assert {api.vendor for api in KNOWN_APIS.values()} <= _VENDORS.keys()
