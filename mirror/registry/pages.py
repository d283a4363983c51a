"""Read the pages of a list from a registry that is not trusted.

A list that fails or is cut off is never taken for a complete one: the iterator raises, and never just ends. A page is
bounded in bytes and in JSON values. A list is bounded in entries, pages and time, and in empty pages in a row.

`Link` (RFC 8288) says that there is a next page. It may be absolute or relative, and must not lead to another origin.
Only its query is used, with our own URL. Behind a proxy, a registry may name another path than the one that we use. A
hostile registry could name any path, and would receive a request with our login there.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

from mirror.errors import ListingTooLarge, SourceFailed, SourceTooSlow
from mirror.http.response import Response
from mirror.http.transport import Origin
from mirror.oci.reference import SourceName
from mirror.registry.retry import Retries
from mirror.registry.throttle import ConcurrencyLimiter, RequestSlot, Sleep

MAX_PAGE_BYTES: Final = 8 * 2**20
"""Registry 2.8 sends all tags in one page. This is enough for 100 000 tags that are commit ids."""
MAX_ENTRIES: Final = 100_000
MAX_PAGES: Final = 2_000
MAX_EMPTY_PAGES: Final = 10
"""Empty pages in a row. Registries send some when they filter a page after reading it."""
MAX_SECONDS: Final = 3600.0
"""Seconds for all requests of one list together."""
_MAX_VALUES: Final = 500_000
"""JSON values of a page. Each costs up to 100 bytes of memory when it is parsed."""
_MAX_LINK: Final = 4096
_LINK: Final = re.compile(r"<([^<>]*)>([^<]*)")
_RELATION: Final = re.compile(r";\s*rel\s*=\s*\"?([^\",;]*)", re.IGNORECASE)
_PARSING: Final = threading.Lock()
"""Pages are parsed one at a time, because JSON needs several times its size."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """The entries of a page, which may be anything, and the request for the next page. None after the last one.

    ``total`` is the length of the whole list, if the registry states it.
    """

    entries: Sequence[Any]
    next: str | None = None
    total: int | None = None


class ListRequests:
    """Runs the requests of lists: under the circuit breaker, each in a slot, and repeated if a failure may pass."""

    def __init__(self, limiter: ConcurrencyLimiter, retries: Retries, sleep: Sleep) -> None:
        self._limiter = limiter
        self._retries = retries
        self._sleep = sleep

    def run(self, source: SourceName, request: Callable[[], T]) -> T:
        """Run *request* and return its result. Raises what `Retries.run` raises."""
        return self._retries.run(source, partial(self._in_slot, source, request))

    def run_optional(self, source: SourceName, request: Callable[[], T | None]) -> T | None:
        """Run a request whose failure decides nothing. See `Retries.run_optional`."""
        return self._retries.run_optional(source, partial(self._in_slot, source, request))

    def _in_slot(self, source: SourceName, request: Callable[[], T]) -> T:
        with RequestSlot(self._limiter, source.registry, "lists", self._sleep):
            return request()


class PagedList:
    """One list, read page by page. *what* names it in errors."""

    def __init__(
        self, registry: str, what: str, *, most_pages: int | None = None, most_entries: int = MAX_ENTRIES
    ) -> None:
        self._registry = registry
        self._what = what
        self._most_pages = MAX_PAGES if most_pages is None else most_pages
        self._most_entries = most_entries
        self._requested: set[str] = set()
        self._last: Sequence[Any] = ()
        self._entries = 0
        self._empty = 0
        self._seconds = 0.0

    def entries(self, first: str, fetch: Callable[[str], Page]) -> Iterator[Any]:
        """Yield the entries of all pages. *fetch* receives *first*, then the `Page.next` of each page.

        Raises SourceFailed if the pages lead in a circle or repeat, or end before the stated total. Raises
        ListingTooLarge, SourceTooSlow for the time of all requests, and what *fetch* raises.
        """
        request: str | None = first
        total: int | None = None
        while request is not None:
            self._require_new(request)
            started = monotonic()
            page = fetch(request)
            self._count(page, monotonic() - started)
            yield from page.entries
            request, total = page.next, page.total
        if total is not None and self._entries < total:
            raise self._broken(f"it ended the list of {self._what} after {self._entries} of {total} entries")

    def _require_new(self, request: str) -> None:
        if request in self._requested:
            raise self._broken(f"the pages of the list of {self._what} lead in a circle")
        if len(self._requested) == self._most_pages:
            raise ListingTooLarge(self._registry, self._what, self._most_pages, "pages")
        self._requested.add(request)

    def _count(self, page: Page, seconds: float) -> None:
        if page.entries and page.entries == self._last and page.next is not None:
            raise self._broken(f"it sends the same page of the list of {self._what} again and again")
        self._last = page.entries
        self._entries += len(page.entries)
        self._empty = 0 if page.entries else self._empty + 1
        self._seconds += seconds
        if self._entries > self._most_entries:
            raise ListingTooLarge(self._registry, self._what, self._most_entries, "entries")
        if self._empty > MAX_EMPTY_PAGES:
            raise self._broken(f"more than {MAX_EMPTY_PAGES} pages in a row of the list of {self._what} were empty")
        if self._seconds > MAX_SECONDS:
            reason = f"the list of {self._what} did not end within {MAX_SECONDS:.0f} s"
            raise SourceTooSlow(self._registry, reason, out_of_time=True)

    def _broken(self, reason: str) -> SourceFailed:
        return SourceFailed(self._registry, reason)


def read_document(response: Response, what: str) -> Any:
    """Read a page and return its JSON. *what* names the list.

    Raises what `parse_document` and `Response.read` raise.
    """
    return parse_document(response.read(MAX_PAGE_BYTES, f"the list of {what}"), response.server, what)


def parse_document(body: bytes, server: str, what: str) -> Any:
    """Return the JSON of a page that *server* sent. *what* names the list.

    Raises SourceFailed unless it is JSON with bounded values and without repeated fields.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise SourceFailed(server, f"a page of the list of {what} has more than {_MAX_VALUES} values")
    try:
        with _PARSING:
            return json.loads(body.decode("utf-8"), object_pairs_hook=_without_repetition)
    except _RepeatedField:
        raise SourceFailed(server, f"a page of the list of {what} has a field twice") from None
    except (ValueError, RecursionError):
        raise SourceFailed(server, f"a page of the list of {what} is not JSON") from None


def entries_of(document: Any, field: str | None, server: str, what: str) -> list[Any]:
    """Return the entries in *field* of a page, or the page itself if *field* is None.

    ``null`` is an empty list: Go writes that for one. A missing field is an error.
    """
    if field is None:
        entries = document
    elif isinstance(document, dict) and field in document:
        entries = [] if document[field] is None else document[field]
    else:
        raise SourceFailed(server, f"a page of the list of {what} has no field '{field}'")
    if not isinstance(entries, list):
        raise SourceFailed(server, f"a page of the list of {what} is not a list")
    return entries


def next_query(response: Response, what: str) -> str | None:
    """Return the query of the next page, from the header Link. None if there is no next page.

    Raises SourceFailed for a Link that leads to another origin, or that cannot be understood.
    """
    target = next_target(response, what)
    if target is None:
        return None
    try:
        url = urljoin(response.url, target)
        origin, query = Origin.of(url), urlsplit(url).query
    except ValueError:
        raise SourceFailed(response.server, f"the Link in the list of {what} is no http or https URL") from None
    if origin != Origin.of(response.url):
        other = f"{origin.scheme}://{origin}"
        raise SourceFailed(response.server, f"the Link in the list of {what} leads to another origin, {other}")
    if not query:
        raise SourceFailed(response.server, f"the Link in the list of {what} names no page")
    return query


def next_target(response: Response, what: str) -> str | None:
    """Return where the header Link says that the next page is, as it is written. None if there is none.

    Raises SourceFailed for a Link that cannot be understood.
    """
    lines = response.headers.lines("Link")
    if sum(map(len, lines)) > _MAX_LINK:
        raise SourceFailed(response.server, f"the Link in the list of {what} has more than {_MAX_LINK} characters")
    links = [match for line in lines for match in _LINK.finditer(line)]
    targets = {link[1].strip() for link in links if "next" in _relations(link[2])}
    malformed = any(line and not _LINK.search(line) for line in lines)
    if malformed or len(targets) > 1:
        raise SourceFailed(response.server, f"the Link in the list of {what} cannot be understood")
    return targets.pop() if targets else None


def _relations(parameters: str) -> list[str]:
    found = _RELATION.search(parameters)
    return found[1].lower().split() if found else []


class _RepeatedField(ValueError):
    """A JSON object has two fields of the same name. Which one counts depends on the reader."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _RepeatedField
    return fields
