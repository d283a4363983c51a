"""List the tags of a repository, and the repositories of a registry.

Tags are listed by ``/v2/<repository>/tags/list`` (distribution spec, "Content Discovery"). Repositories are listed by
``/v2/_catalog``, which belongs to CNCF distribution and not to the spec, or by the API of a vendor: see `vendors`.

Names are yielded while pages arrive, so no list is held in memory. Only the set of names that were yielded is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import structlog

from mirror.errors import (
    ListingDenied,
    ListingTooLarge,
    ListingUnsupported,
    MirrorError,
    RepositoryUnknown,
    SourceFailed,
)
from mirror.http.response import Response
from mirror.oci.reference import MAX_NAME_LENGTH, RepositoryPattern, is_tag, repository_problem
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.pages import ListRequests, Page, PagedList, entries_of, next_query, read_document
from mirror.registry.vendors import VendorListings

PAGE_SIZE: Final = 1000
"""The most entries per page that CNCF distribution 3 allows."""
MAX_REPOSITORIES: Final = 10_000
"""Repositories below one prefix."""
_FIRST: Final = f"n={PAGE_SIZE}"
_ANY_SIZE: Final = ""
_NO_LIST: Final = frozenset({405, 501})
_NAME_TAGS: Final = "Name the images with their tags in `images`, with one entry for each."
_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _List:
    """A list below ``/v2``: its path, the field with its entries, and the errors for a 404 and for a 405 or 501."""

    path: str
    field: str
    what: str
    unknown: MirrorError
    unsupported: MirrorError


class Listing:
    """Lists tags and repositories. Safe to share between threads.

    The iterators hold no slot and no connection between two pages. A wait ends as the wait of any other request does.
    """

    def __init__(
        self,
        requests: AuthorizedRequests,
        vendors: VendorListings,
        lists: ListRequests,
    ) -> None:
        self._requests = requests
        self._vendors = vendors
        self._lists = lists

    def tags(self, repository: RepositoryPattern, *, most_pages: int | None = None) -> Iterator[str]:
        """Yield each tag of *repository* once, in the registry's order. See `RegistryClient.tags`.

        Raises ListingTooLarge also if the list has more than *most_pages*.
        """
        unknown = RepositoryUnknown(repository.registry, repository.repository)
        unsupported = SourceFailed(repository.registry, f"it has no list of the tags of {repository}", hint=_NAME_TAGS)
        listed = _List("tags/list", "tags", f"tags of {repository}", unknown, unsupported)
        seen: set[str] = set()
        malformed = 0
        for tag in self._entries(repository, listed, most_pages):
            if not isinstance(tag, str) or not is_tag(tag):
                malformed += 1
            elif tag not in seen:
                seen.add(tag)
                yield tag
        _log_malformed(malformed, listed.what)

    def repositories(self, pattern: RepositoryPattern) -> Iterator[str]:
        """Yield each repository that *pattern* includes once. See `RegistryClient.repositories`."""
        if not pattern.is_wildcard:
            yield pattern.repository
            return
        seen: set[str] = set()
        malformed = 0
        for name in self._repositories(pattern):
            if not _is_usable(pattern.registry, name):
                malformed += 1
            elif pattern.includes(name) and name not in seen:
                if len(seen) == MAX_REPOSITORIES:
                    what = f"repositories of {pattern}"
                    raise ListingTooLarge(pattern.registry, what, MAX_REPOSITORIES, "repositories")
                seen.add(name)
                yield name
        _log_malformed(malformed, f"repositories of {pattern}")

    def _repositories(self, pattern: RepositoryPattern) -> Iterator[Any]:
        """Yield the names of a vendor's list, else of the catalog.

        Harbor shows its catalog to administrators only. Others are shown what they may read by its own API.
        """
        if api := self._vendors.api(pattern.registry):
            yield from self._vendors.repositories(api, pattern)
            return
        try:
            yield from self._catalog(pattern)
        except (ListingDenied, ListingUnsupported):
            if (api := self._vendors.harbor(pattern.registry)) is None:
                raise
            yield from self._vendors.repositories(api, pattern)

    def _catalog(self, pattern: RepositoryPattern) -> Iterator[Any]:
        unknown = ListingUnsupported(pattern.registry, "it has no catalog (/v2/_catalog)")
        listed = _List("_catalog", "repositories", f"repositories of {pattern.registry}", unknown, unknown)
        return self._entries(pattern, listed)

    def _entries(self, source: RepositoryPattern, listed: _List, most_pages: int | None = None) -> Iterator[Any]:
        def fetch(query: str) -> Page:
            return self._lists.run(source, partial(self._fetch_once, source, listed, query))

        return PagedList(source.registry, listed.what, most_pages=most_pages).entries(_FIRST, fetch)

    def _fetch_once(self, source: RepositoryPattern, listed: _List, query: str) -> Page:
        path = f"{listed.path}?{query}" if query else listed.path
        with self._requests.send("GET", source, path, {"Accept": "application/json"}).response as response:
            if response.status == 400 and query == _FIRST:
                # The registry may allow smaller pages only (distribution: PAGINATION_NUMBER_INVALID). Let it choose.
                return Page((), _ANY_SIZE)
            if response.status in _NO_LIST:
                raise listed.unsupported
            self._requests.require_status(response, source, listed.unknown, what=f"the list of {listed.what}")
            return _page(response, listed, query)


def _page(response: Response, listed: _List, query: str) -> Page:
    entries = entries_of(read_document(response, listed.what), listed.field, response.server, listed.what)
    return Page(entries, next_query(response, listed.what) or _possible_next(entries, query))


def _possible_next(entries: list[Any], query: str) -> str | None:
    """Return the request that shows whether a full page without a Link is the last one. None if it is not full.

    A proxy may have dropped the Link. A registry that ignores ``last`` sends the same page again, which ends the list.
    """
    if len(entries) != PAGE_SIZE or not isinstance(entries[-1], str):
        return None
    following = f"{_FIRST}&{urlencode({'last': entries[-1].encode('utf-8', 'replace')})}"
    return following if following != query else None


def _is_usable(registry: str, name: Any) -> bool:
    if not isinstance(name, str) or repository_problem(name) is not None:
        return False
    return len(registry) + 1 + len(name) <= MAX_NAME_LENGTH


def _log_malformed(count: int, what: str) -> None:
    if count:
        _LOG.warning("a registry lists names that nobody can pull, which are left out", list=what, count=count)
