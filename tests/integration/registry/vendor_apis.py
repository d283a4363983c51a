"""The APIs of vendors that list repositories, as scripts, each as its documentation describes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import MirrorError
from mirror.oci.reference import RepositoryPattern
from mirror.registry.vendors import KNOWN_APIS
from mirror.settings import ListingApi
from tests.integration.registry.conftest import MakeClient
from tests.support.fakes.lists import body_of
from tests.support.fakes.server import HttpServer, Reply, Request

NAMES = [f"app-{n:03}" for n in range(250)]
TOKEN = "ghp_access-token"


class Api:
    """A vendor's API, which records its requests."""

    def __init__(self, reply_to: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self.reply_to = reply_to
        self.server = HttpServer("api", self._reply)

    @property
    def url(self) -> str:
        return f"http://{self.server.host}"

    def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        return self.reply_to(request)


MakeApi = Callable[[Callable[[Request], Reply]], Api]


@pytest.fixture
def api_of() -> Iterator[MakeApi]:
    """Starts servers of vendors' APIs."""
    running: list[HttpServer] = []

    def start(reply_to: Callable[[Request], Reply]) -> Api:
        api = Api(reply_to)
        running.append(api.server.__enter__())
        return api

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config.json with a login for each known registry."""
    path = tmp_path / "logins.json"
    auth = base64.b64encode(f"gordon:{TOKEN}".encode()).decode()
    path.write_text(json.dumps({"auths": {registry: {"auth": auth} for registry in KNOWN_APIS}}))
    return path


def listed(client_of: MakeClient, pattern: str, api: ListingApi, **settings: Any) -> list[str]:
    parsed = RepositoryPattern.parse(pattern)
    return list(client_of(listing_apis={parsed.registry: api}, **settings).repositories(parsed))


def failure(client_of: MakeClient, pattern: str, api: ListingApi, **settings: Any) -> MirrorError:
    with pytest.raises(MirrorError) as caught:
        listed(client_of, pattern, api, **settings)
    return caught.value


def numbered(request: Request, size_name: str) -> tuple[int, int]:
    """Return the start of the requested page in the list, and the end."""
    size, page = int(request.query[size_name][0]), int(request.query["page"][0])
    return (page - 1) * size, page * size


def docker_hub(request: Request) -> Reply:
    """docs.docker.com/reference/api/hub/latest: listNamespaceRepositories."""
    if request.path != "/v2/namespaces/bitnami/repositories":
        return body_of(404, {"message": "object not found", "errinfo": {}})
    start, end = numbered(request, "page_size")
    results = [{"name": name, "namespace": "bitnami", "repository_type": "image"} for name in NAMES[start:end]]
    following = f"https://hub.docker.com{request.path}?page={end // 100 + 1}" if end < len(NAMES) else None
    return body_of(200, {"count": len(NAMES), "next": following, "previous": None, "results": results})


def quay(request: Request) -> Reply:
    """Red Hat Quay API reference: listRepos."""
    assert request.path == "/api/v1/repository"
    assert request.query["public"] == ["true"]
    start = int(request.query.get("next_page", ["t=0"])[0].removeprefix("t="))
    shown = [{"namespace": "prometheus", "name": name, "kind": "image"} for name in NAMES[start : start + 100]]
    more = {"next_page": f"t={start + 100}"} if start + 100 < len(NAMES) else {}
    return body_of(200, {"repositories": shown, **more})


def linked(request: Request, entries: list[dict[str, Any]], total: str = "") -> Reply:
    """Return a page as GitHub, GitLab and Harbor do: an array, with Link and perhaps with the total in a header."""
    start, end = numbered(request, "page_size" if "page_size" in request.query else "per_page")
    headers = {"Link": f'<{request.path}?page={end // 100 + 1}>; rel="next"'} if end < len(entries) else {}
    if total:
        headers[total] = str(len(entries))
    return body_of(200, entries[start:end], **headers)


def github(request: Request) -> Reply:
    """docs.github.com/en/rest/packages/packages: the packages of an organization, and of a user."""
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        return body_of(401, {"message": "Requires authentication"})
    assert request.query["package_type"] == ["container"]
    packages = [{"name": name, "package_type": "container"} for name in [*NAMES[:120], "charts/nested"]]
    known = {"/orgs/homebrew/packages": packages, "/users/octocat/packages": packages[:1]}
    return linked(request, known[request.path]) if request.path in known else body_of(404, {"message": "Not Found"})


def gitlab(request: Request) -> Reply:
    """docs.gitlab.com/api/container_registry: the repositories of a group, and of a project."""
    group = [{"id": n, "name": "", "path": f"group/sub/{name}"} for n, name in enumerate(NAMES)]
    project = [{"id": 1, "name": "", "path": "group/project"}, {"id": 2, "name": "x", "path": "group/project/x"}]
    known = {
        "/api/v4/groups/group%2Fsub/registry/repositories": group,
        "/api/v4/projects/group%2Fproject/registry/repositories": project,
    }
    if request.path not in known:
        return body_of(404, {"message": "404 Group Not Found"})
    return linked(request, known[request.path], total="X-Total")
