"""List repositories by the APIs of vendors whose registries have no catalog.

Each is built from its public documentation:

- Docker Hub: docs.docker.com/reference/api/hub/latest, "List repositories in a namespace" and "Create access token".
- Quay: docs.redhat.com, "Red Hat Quay API reference", listRepos.
- GitHub: docs.github.com/en/rest/packages/packages, "List packages for an organization" and "for a user".
- GitLab: docs.gitlab.com/api/container_registry, "List registry repositories".
- Harbor: api/v2.0/swagger.yaml of goharbor/harbor, listRepositories, listAllRepositories and getPing.

Pages are requested by their number, or by Quay's token, never by a URL that a response names. A response says whether
there is a next page. If it states the length of the whole list, the list must reach it.

Without credentials a vendor lists public repositories only. ADR 38 says which host may have which credentials.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from mirror.errors import ListingDenied, ListingUnsupported, RepositoryUnknown, SourceFailed
from mirror.http.deadlines import shared_deadline
from mirror.http.redirects import Redirects
from mirror.http.response import Response
from mirror.http.transport import Origin, Transport
from mirror.oci.reference import DOCKER_HUB, RepositoryPattern
from mirror.registry.auth import CredentialLookup
from mirror.registry.credentials import Credential
from mirror.registry.endpoints import Endpoints
from mirror.registry.pages import ListRequests, Page, PagedList, entries_of, next_target, read_document
from mirror.registry.response_errors import status_error
from mirror.registry.token_server import MAX_TOKEN_REPLY, parse_token
from mirror.settings import ListingApi

PAGE_SIZE: Final = 100
"""The most entries per page that GitHub, GitLab and Harbor allow."""
KNOWN_APIS: Final = {
    DOCKER_HUB: ListingApi("docker-hub", "https://hub.docker.com"),
    "quay.io": ListingApi("quay", "https://quay.io"),
    "ghcr.io": ListingApi("github", "https://api.github.com"),
    "registry.gitlab.com": ListingApi("gitlab", "https://gitlab.com"),
}
_HEADERS: Final = {"Accept": "application/json"}
_EXCHANGE_PATH: Final = "/v2/auth/token"
_PING_SIZE: Final = 1024
_MAX_TOKEN: Final = 1024
_MAX_DIGITS: Final = 9
_RATE_LIMITED: Final = 429


@dataclass(frozen=True, slots=True)
class _Vendor:
    """How one vendor lists the repositories below a prefix.

    ``paths`` are tried in this order until one is not 404. In them, and in ``query``, ``{namespace}`` is the first
    component of the prefix, and ``{prefix}`` is all of it. ``path_of_all`` lists the whole registry, if it can.

    ``login`` says how the registry's user and password are used. With "bearer" the password is an access token. With
    "exchange" they are exchanged for one.
    """

    login: Literal["none", "basic", "bearer", "exchange"]
    paths: tuple[str, ...]
    query: str
    name: str
    field: str | None = None
    is_whole_name: bool = False
    path_of_all: str | None = None

    def requests(self, prefix: str) -> list[str]:
        """Return path and query of the first page, for each of the paths."""
        names = {"namespace": prefix.partition("/")[0], "prefix": quote(prefix, safe="")}
        paths = self.paths if prefix or self.path_of_all is None else (self.path_of_all,)
        return [f"{path}?{self.query}".format(**names) for path in paths]

    def repository(self, entry: Any, prefix: str) -> Any:
        """Return the name of an entry's repository. None for an entry that is no repository of images."""
        name = entry.get(self.name) if isinstance(entry, dict) else None
        if not isinstance(name, str) or entry.get("repository_type") == "plugin":
            return None
        return name if self.is_whole_name else f"{prefix.partition('/')[0]}/{name}"


_VENDORS: Final[Mapping[str, _Vendor]] = {
    "docker-hub": _Vendor(
        "exchange",
        ("/v2/namespaces/{namespace}/repositories",),
        f"page_size={PAGE_SIZE}&ordering=name",
        name="name",
        field="results",
    ),
    "quay": _Vendor(
        "none", ("/api/v1/repository",), "namespace={namespace}&public=true", name="name", field="repositories"
    ),
    "github": _Vendor(
        "bearer",
        ("/orgs/{namespace}/packages", "/users/{namespace}/packages"),
        f"package_type=container&per_page={PAGE_SIZE}",
        name="name",
    ),
    "gitlab": _Vendor(
        "bearer",
        ("/api/v4/groups/{prefix}/registry/repositories", "/api/v4/projects/{prefix}/registry/repositories"),
        f"per_page={PAGE_SIZE}",
        name="path",
        is_whole_name=True,
    ),
    "harbor": _Vendor(
        "basic",
        ("/api/v2.0/projects/{namespace}/repositories",),
        f"page_size={PAGE_SIZE}",
        name="name",
        is_whole_name=True,
        path_of_all="/api/v2.0/repositories",
    ),
}


@dataclass(frozen=True, slots=True)
class _ApiListing:
    """One list of a vendor's API. ``source`` is its name for the throttle, with the host of the API."""

    api: ListingApi
    vendor: _Vendor
    pattern: RepositoryPattern
    source: RepositoryPattern
    authorization: str | None = field(repr=False)

    @property
    def what(self) -> str:
        return f"repositories of {self.pattern}"


class VendorListings:
    """Lists repositories by the APIs of vendors. Safe to share between threads.

    *apis* maps a registry to its API. It comes from the settings and wins over `KNOWN_APIS`.
    """

    def __init__(
        self,
        transport: Transport,
        redirects: Redirects,
        endpoints: Endpoints,
        find_credential: CredentialLookup,
        apis: Mapping[str, ListingApi],
        lists: ListRequests,
    ) -> None:
        self._transport = transport
        self._redirects = redirects
        self._endpoints = endpoints
        self._find_credential = find_credential
        self._apis = {**KNOWN_APIS, **apis}
        self._lists = lists

    def api(self, registry: str) -> ListingApi | None:
        """Return the API that lists a registry's repositories. None if the registry itself does."""
        return self._apis.get(registry)

    def harbor(self, registry: str) -> ListingApi | None:
        """Return the API of a registry that turns out to be Harbor. None if it is not."""
        api = ListingApi("harbor", self._endpoints.base_url(registry))
        source = RepositoryPattern(registry, "", is_wildcard=True)
        found = self._lists.run_optional(source, partial(self._ping, registry, f"{api.url}/api/v2.0/ping"))
        return api if found else None

    def repositories(self, api: ListingApi, pattern: RepositoryPattern) -> Iterator[Any]:
        """Yield the names that the vendor lists for *pattern*, also of repositories that it does not include.

        Raises ListingUnsupported if the vendor lists namespaces only, and the pattern names none. Raises
        RepositoryUnknown for an unknown namespace, ListingDenied, and what a list and every request raise.
        """
        vendor = _VENDORS[api.vendor]
        if not pattern.repository and vendor.path_of_all is None:
            hint = f"Name a namespace, as in '{pattern.registry}/NAMESPACE/*', or name the repositories in `images`."
            raise ListingUnsupported(pattern.registry, "it lists one namespace at a time", hint=hint)
        listing = self._listing(api, vendor, pattern)
        firsts = [_paged(vendor, first) for first in vendor.requests(pattern.repository)]
        following = dict(pairwise(firsts))

        def fetch(request: str) -> Page:
            once = partial(self._fetch_once, listing, request, following.get(request))
            return self._lists.run(listing.source, once)

        entries = PagedList(listing.source.registry, listing.what).entries(firsts[0], fetch)
        return (vendor.repository(entry, pattern.repository) for entry in entries)

    def _listing(self, api: ListingApi, vendor: _Vendor, pattern: RepositoryPattern) -> _ApiListing:
        own = api.url == self._endpoints.base_url(pattern.registry)
        host = pattern.registry if own else str(Origin.of(api.url))
        source = RepositoryPattern(host, pattern.repository, is_wildcard=True)
        listing = _ApiListing(api, vendor, pattern, source, None)
        if vendor.login == "none":
            return listing
        credential = self._find_credential(pattern.registry, pattern.repository)
        return replace(listing, authorization=self._authorization(listing, credential) if credential else None)

    def _authorization(self, listing: _ApiListing, credential: Credential) -> str | None:
        """Return the header to send. None for a credential that the vendor's API does not know, such as a token."""
        if listing.vendor.login == "basic":
            return credential.basic
        if listing.vendor.login == "bearer":
            return credential.bearer
        if credential.basic is None:
            return None
        return self._lists.run(listing.source, partial(self._exchange_once, listing, credential))

    def _exchange_once(self, listing: _ApiListing, credential: Credential) -> str:
        """Exchange user and password for an access token, which is valid for ten minutes.

        No redirect is followed. Raises ListingDenied if they are refused.
        """
        login = json.dumps({"identifier": credential.username, "secret": credential.password}).encode()
        headers = {**_HEADERS, "Content-Type": "application/json"}
        server, url = listing.source.registry, f"{listing.api.url}{_EXCHANGE_PATH}"
        with self._transport.request("POST", url, headers, server=server, body=login) as response:
            if response.status in (400, 401, 403):
                raise ListingDenied(listing.pattern.registry, with_credentials=True)
            if response.status != 200:
                raise status_error(server, response.status, response.headers, subject="its login")
            return f"Bearer {parse_token(response.read(MAX_TOKEN_REPLY, 'a token'), server).text}"

    def _fetch_once(self, listing: _ApiListing, request: str, alternative: str | None) -> Page:
        """Fetch one page in one attempt. After a 404, the *alternative* request is the next page."""
        with shared_deadline(), self._get(listing, f"{listing.api.url}{request}") as response:
            if response.status == 404 and alternative is not None:
                return Page((), alternative)
            _require_list(response, listing)
            return _page(response, listing, request)

    def _get(self, listing: _ApiListing, url: str) -> Response:
        registry, home = listing.pattern.registry, Origin.of(listing.api.url)
        return self._redirects.follow(
            "GET",
            url,
            _HEADERS,
            listing.authorization,
            server=listing.source.registry,
            permits=lambda origin: origin == home or self._endpoints.permits(registry, origin),
        ).response

    def _ping(self, registry: str, url: str) -> Literal[True] | None:
        """Return True if Harbor's ``/api/v2.0/ping`` replies as Harbor does."""
        permits = partial(self._endpoints.permits, registry)
        with shared_deadline():
            final = self._redirects.follow("GET", url, _HEADERS, None, server=registry, permits=permits)
        with final.response as response:
            if response.status != 200 or final.target is not None:
                return None
            reply = response.read(_PING_SIZE, "a ping").strip(b' \r\n\t"')
            return True if reply.lower() == b"pong" else None


def _require_list(response: Response, listing: _ApiListing) -> None:
    """Raise the error for a status that is not 200."""
    server, status = response.server, response.status
    if status == 200:
        return
    if status == 403 and response.headers.get("x-ratelimit-remaining") == "0":
        status = _RATE_LIMITED  # GitHub's REST API, "Rate limits"
    if status in (401, 403):
        raise ListingDenied(listing.pattern.registry, with_credentials=listing.authorization is not None)
    if status == 404:
        raise RepositoryUnknown(listing.pattern.registry, listing.pattern.repository)
    raise status_error(server, status, response.headers, subject="it", what=f"the list of {listing.what}")


def _page(response: Response, listing: _ApiListing, request: str) -> Page:
    document = read_document(response, listing.what)
    entries = entries_of(document, listing.vendor.field, response.server, listing.what)
    if isinstance(document, list):  # a proxy may have dropped the Link of a full page
        has_next = next_target(response, listing.what) is not None or len(entries) >= PAGE_SIZE
        return Page(entries, _next_number(request) if has_next else None, _total(response))
    if listing.api.vendor == "quay":
        return Page(entries, _after_token(document.get("next_page"), request, response.server, listing.what))
    total = document.get("count")
    if not isinstance(total, int | None) or isinstance(total, bool) or (total or 0) < 0:
        raise SourceFailed(response.server, f"it states no possible length for the list of {listing.what}")
    return Page(entries, _next_number(request) if document.get("next") else None, total)


def _next_number(request: str) -> str:
    path, _, number = request.rpartition("&page=")
    return f"{path}&page={int(number) + 1}"


def _after_token(token: Any, request: str, server: str, what: str) -> str | None:
    if token is None or token == "":
        return None
    if not isinstance(token, str) or len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise SourceFailed(server, f"the next_page in the list of {what} cannot be used")
    return f"{request.partition('&next_page=')[0]}&{urlencode({'next_page': token})}"


def _paged(vendor: _Vendor, request: str) -> str:
    return request if vendor is _VENDORS["quay"] else f"{request}&page=1"


def _total(response: Response) -> int | None:
    """Return the length of the whole list. Harbor states it in X-Total-Count, and GitLab in X-Total."""
    for name in ("X-Total-Count", "X-Total"):
        text = response.headers.get(name, "")
        if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS:
            return int(text)
    return None
