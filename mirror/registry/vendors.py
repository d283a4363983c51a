"""List repositories by the APIs of vendors whose registries have no catalog.

Each is built from its public documentation:

- Docker Hub: docs.docker.com/reference/api/hub/latest, "List repositories in a namespace" and "Create access token".
- Quay: docs.redhat.com, "Red Hat Quay API reference", listRepos.
- GitHub: docs.github.com/en/rest/packages/packages, "List packages for an organization" and "for a user".
- GitLab: docs.gitlab.com/api/container_registry, "List registry repositories".
- Harbor: api/v2.0/swagger.yaml of goharbor/harbor, listRepositories, listAllRepositories and getPing.

Pages are requested by their number, or by Quay's token, never by a URL that a response names. A page that is full, or
that announces another one, has a next page. If the length of the whole list is stated, the list must reach it.

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
class _Question:
    """What is asked of a vendor's API, and as whom it is known to the throttle: by its own host."""

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
        question = self._question(api, vendor, pattern)
        firsts = [_paged(vendor, first) for first in vendor.requests(pattern.repository)]
        following = dict(pairwise(firsts))

        def fetch(request: str) -> Page:
            once = partial(self._fetch_once, question, request, following.get(request))
            return self._lists.run(question.source, once)

        entries = PagedList(question.source.registry, question.what).entries(firsts[0], fetch)
        return (vendor.repository(entry, pattern.repository) for entry in entries)

    def _question(self, api: ListingApi, vendor: _Vendor, pattern: RepositoryPattern) -> _Question:
        own = api.url == self._endpoints.base_url(pattern.registry)
        host = pattern.registry if own else str(Origin.of(api.url))
        source = RepositoryPattern(host, pattern.repository, is_wildcard=True)
        question = _Question(api, vendor, pattern, source, None)
        if vendor.login == "none":
            return question
        credential = self._find_credential(pattern.registry, pattern.repository)
        return replace(question, authorization=self._authorization(question, credential) if credential else None)

    def _authorization(self, question: _Question, credential: Credential) -> str | None:
        """Return the header to send. None for a credential that the vendor's API does not know, such as a token."""
        if question.vendor.login == "basic":
            return credential.basic
        if question.vendor.login == "bearer":
            return credential.bearer
        if credential.basic is None:
            return None
        return self._lists.run(question.source, partial(self._exchange_once, question, credential))

    def _exchange_once(self, question: _Question, credential: Credential) -> str:
        """Exchange user and password for an access token, which is valid for ten minutes.

        No redirect is followed. Raises ListingDenied if they are refused.
        """
        login = json.dumps({"identifier": credential.username, "secret": credential.password}).encode()
        headers = {**_HEADERS, "Content-Type": "application/json"}
        server, url = question.source.registry, f"{question.api.url}{_EXCHANGE_PATH}"
        with self._transport.request("POST", url, headers, server=server, body=login) as response:
            if response.status in (400, 401, 403):
                raise ListingDenied(question.pattern.registry, with_credentials=True)
            if response.status != 200:
                raise status_error(server, response.status, response.headers, subject="its login")
            return f"Bearer {parse_token(response.read(MAX_TOKEN_REPLY, 'a token'), server).text}"

    def _fetch_once(self, question: _Question, request: str, alternative: str | None) -> Page:
        """Fetch one page in one attempt. After a 404, the *alternative* request is the next page."""
        with shared_deadline(), self._get(question, f"{question.api.url}{request}") as response:
            if response.status == 404 and alternative is not None:
                return Page((), alternative)
            _require_list(response, question)
            return _page(response, question, request)

    def _get(self, question: _Question, url: str) -> Response:
        registry, home = question.pattern.registry, Origin.of(question.api.url)
        return self._redirects.follow(
            "GET",
            url,
            _HEADERS,
            question.authorization,
            server=question.source.registry,
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


def _require_list(response: Response, question: _Question) -> None:
    """Raise the error for a status that is not 200."""
    server, status = response.server, response.status
    if status == 200:
        return
    if status == 403 and response.headers.get("x-ratelimit-remaining") == "0":
        status = _RATE_LIMITED  # GitHub's REST API, "Rate limits"
    if status in (401, 403):
        raise ListingDenied(question.pattern.registry, with_credentials=question.authorization is not None)
    if status == 404:
        raise RepositoryUnknown(question.pattern.registry, question.pattern.repository)
    raise status_error(server, status, response.headers, subject="it", what=f"the list of {question.what}")


def _page(response: Response, question: _Question, request: str) -> Page:
    document = read_document(response, question.what)
    entries = entries_of(document, question.vendor.field, response.server, question.what)
    fields = document if isinstance(document, dict) else {}
    total = fields.get("count") if fields else _total(response)
    if isinstance(total, int) and total < 0:
        raise SourceFailed(response.server, f"it states {total} entries for the list of {question.what}")
    return Page(entries, _next_request(fields, entries, response, question, request), _count(total))


def _next_request(
    fields: Mapping[str, Any], entries: list[Any], response: Response, question: _Question, request: str
) -> str | None:
    """Return the request for the next page. None after the last page."""
    if question.api.vendor == "quay":
        return _after_token(fields.get("next_page"), request, response.server, question.what)
    announced = fields.get("next") if fields else next_target(response, question.what)
    if not announced and len(entries) < PAGE_SIZE:
        return None
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


def _count(total: Any) -> int | None:
    return total if isinstance(total, int) and not isinstance(total, bool) else None
