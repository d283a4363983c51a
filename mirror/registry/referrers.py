"""Find what refers to a manifest at a registry: by the referrers API, and by tags.

A failure never reads as "it has no signature". Each question gets a certain reply, or raises. ADR 45 has the table of
what registries answer, and what that means here.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Final

import structlog

from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    ContentError,
    Denied,
    ListingDenied,
    ListingTooLarge,
    ListingUnsupported,
    ManifestInvalid,
    MirrorError,
    RegistryFailing,
    RepositoryUnknown,
    SourceFailed,
    SourceTooSlow,
    Unauthorized,
)
from mirror.http.failures import ServerFailed
from mirror.http.response import Response, WebPage
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_MANIFEST_SIZE
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.oci.referrer import REFERRER_TAG, Referrer, read_entries
from mirror.registry.authorized_request import AuthorizedRequests
from mirror.registry.listing import Listing
from mirror.registry.pages import ListRequests, Page, PagedList, entries_of, next_query, parse_document

MAX_REFERRERS: Final = 1000
"""Entries in the list of one subject."""
MAX_LIST_BYTES: Final = 8 * 2**20
"""Bytes of all pages of one list together. It bounds annotations, and content that descriptors embed."""
MAX_TAG_PAGES: Final = 10
"""Pages of tags. More of them cost more than asking for the few tags that may belong to an image."""
NO_API_SECONDS: Final = 600.0
"""Seconds for which a registry without the API is not asked again."""
_MAX_RECORDS: Final = 512
_NO_API: Final = frozenset({400, 404, 405, 406, 501})
_ABOUT_A_NAME: Final = frozenset(
    {"BLOB_UNKNOWN", "DIGEST_INVALID", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN"}
)
"""Codes of the distribution spec that are about one repository or manifest. They say nothing about others."""
_REFUSAL_SIZE: Final = 64 * 1024
_KNOWN: Final = media_types.MANIFESTS | media_types.INDEXES
_ACCEPT: Final = {"Accept": media_types.OCI_INDEX}
_NO_TAG_LIST: Final = (
    AnswerTooLarge,
    Denied,
    ListingDenied,
    ListingTooLarge,
    ListingUnsupported,
    RepositoryUnknown,
    SourceFailed,
    Unauthorized,
)
"""Errors after which each tag is asked for. `ServerFailed` is a SourceFailed and is not one of them."""
_WITHOUT_REFERRERS: Final = 'A job with "referrers": false copies images without their signatures and other referrers.'
_ABOUT_THE_LIST: Final = (
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    RegistryFailing,
    SourceFailed,
    SourceTooSlow,
    Unauthorized,
)
"""Errors that a registry may return for its lists of referrers alone."""
_LOG = structlog.get_logger(__name__)


class ReferrerSource:
    """Finds referrers at registries. Safe to share between threads."""

    def __init__(self, requests: AuthorizedRequests, listing: Listing, lists: ListRequests) -> None:
        self._requests = requests
        self._listing = listing
        self._lists = lists
        self._support = _ApiSupport()

    def of(self, subject: Reference) -> tuple[Referrer, ...] | None:
        """Return the referrers of a digest. None without the API. See `RegistryClient.referrers`."""
        if self._support.is_missing(subject.registry):
            return None
        what = f"referrers of {subject}"
        size = 0

        def fetch(query: str) -> Page:
            nonlocal size
            page, received = self._lists.run(subject, partial(self._fetch_once, subject, query, what))
            size += received
            if size > MAX_LIST_BYTES:
                raise ListingTooLarge(subject.registry, what, MAX_LIST_BYTES, "bytes")
            return page

        pages = PagedList(subject.registry, what, most_entries=MAX_REFERRERS)
        with _hinted():
            try:
                entries = list(pages.entries("", fetch))
            except _NoApi:
                return None
            return _usable(read_entries(entries, what=f"list of {what}"), what)

    def tags(self, repository: Reference) -> frozenset[str] | None:
        """Return the tags that may belong to referrers. See `RegistryClient.referrer_tags`."""
        pattern = RepositoryPattern(repository.registry, repository.repository)
        try:
            tags = self._listing.tags(pattern, most_pages=MAX_TAG_PAGES)
            return frozenset(tag for tag in tags if REFERRER_TAG.fullmatch(tag))
        except ServerFailed:
            raise
        except _NO_TAG_LIST as error:
            _LOG.info("tags of referrers are asked for one by one", repository=pattern.name, reason=error.message)
            return None

    def _fetch_once(self, subject: Reference, query: str, what: str) -> tuple[Page, int]:
        """Return a page and its bytes. Raises _NoApi for a first page that shows that there is no API."""
        path = f"referrers/{subject.digest}"
        with self._requests.send("GET", subject, f"{path}?{query}" if query else path, _ACCEPT).response as response:
            if response.status in _NO_API and not query:
                raise self._no_api(response, subject)
            unknown = SourceFailed(subject.registry, f"it answered 404 for a page of the list of {what}")
            self._requests.require_status(response, subject, unknown, what=f"the list of {what}")
            try:
                body = response.read(MAX_MANIFEST_SIZE, f"the list of {what}")
            except WebPage:
                if query:
                    raise
                raise self._no_api(response, subject) from None
            entries = entries_of(parse_document(body, response.server, what), "manifests", response.server, what)
            page = Page(entries, next_query(response, what))
        self._support.answered(subject.registry)
        return page, len(body)

    def _no_api(self, response: Response, subject: Reference) -> _NoApi:
        """Return the error for a registry without the API, and remember it if all of its repositories lack it."""
        if response.status != 400 and not _error_codes(response) & _ABOUT_A_NAME:
            self._support.lacks(subject.registry, response.status)
        return _NoApi(subject.registry, "it has no referrers API")


class _NoApi(ListingUnsupported):
    """The registry lists no referrers for this subject. It is never shown to a user."""


class _ApiSupport:
    """Which registries have no referrers API, as far as this process found out.

    A registry that has ever sent a list has the API. Then its refusals are about one repository only, such as one that
    a proxy serves from elsewhere.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._missing_until: OrderedDict[str, float] = OrderedDict()

    def is_missing(self, registry: str) -> bool:
        with self._lock:
            return monotonic() < self._missing_until.get(registry, 0.0)

    def answered(self, registry: str) -> None:
        """Record that the registry sent a list."""
        with self._lock:
            self._answered[registry] = None
            self._missing_until.pop(registry, None)
            _drop_oldest(self._answered)

    def lacks(self, registry: str, status: int) -> None:
        """Record that the registry does not know the API at all, unless it ever sent a list."""
        with self._lock:
            if registry in self._answered:
                return
            self._missing_until[registry] = monotonic() + NO_API_SECONDS
            self._missing_until.move_to_end(registry)
            _drop_oldest(self._missing_until)
        _LOG.debug("this registry has no referrers API", registry=registry, status=status, skipped_for=NO_API_SECONDS)


def _drop_oldest(records: OrderedDict[str, None] | OrderedDict[str, float]) -> None:
    if len(records) > _MAX_RECORDS:
        records.popitem(last=False)


def _error_codes(response: Response) -> set[str]:
    """Return the codes of an error response, in the format of the distribution spec. Empty for any other body."""
    try:
        document = json.loads(response.read_quickly(_REFUSAL_SIZE, "a refusal"))
    except (MirrorError, ValueError, RecursionError):
        return set()
    errors = document.get("errors") if isinstance(document, dict) else None
    found = [error.get("code") for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    return {code for code in found if isinstance(code, str)}


def _usable(referrers: tuple[Referrer, ...], what: str) -> tuple[Referrer, ...]:
    """Return each digest once, without entries whose media type the mirror does not know.

    Raises ManifestInvalid for an entry without a media type: it may be a signature.
    """
    if any(not referrer.descriptor.media_type for referrer in referrers):
        raise ManifestInvalid(f"list of {what}", "one of its entries has no mediaType")
    found: dict[Digest, Referrer] = {}
    for referrer in referrers:
        if referrer.descriptor.media_type in _KNOWN:
            found.setdefault(referrer.digest, referrer)
    others = {referrer.descriptor.media_type for referrer in referrers} - _KNOWN
    if others:
        _LOG.warning("referrers of unknown media types are left out", list=what, media_types=sorted(others)[:10])
    return tuple(found.values())


@contextmanager
def _hinted() -> Iterator[None]:
    """Say in the hints of errors how to copy without referrers."""
    try:
        yield
    except (ContentError, ListingTooLarge) as error:
        error.hint = _WITHOUT_REFERRERS
        raise
    except _ABOUT_THE_LIST as error:
        error.hint = f"{error.hint} {_WITHOUT_REFERRERS}"
        raise
