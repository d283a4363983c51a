"""The APIs of vendors that list repositories, each as its documentation describes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import (
    ListingDenied,
    ListingUnsupported,
    MirrorError,
    PlainHttpNotAllowed,
    RateLimited,
    RepositoryUnknown,
    SourceFailed,
)
from mirror.oci.reference import RepositoryPattern
from mirror.registry.vendors import KNOWN_APIS
from mirror.settings import ListingApi
from tests.integration.registry.conftest import LOGIN, MakeClient
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.lists import body_of
from tests.support.fakes.registry import FakeRegistry
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


def test_docker_hub_lists_the_public_repositories_of_a_namespace(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(docker_hub)
    found = listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url))
    assert found == [f"bitnami/{name}" for name in NAMES]
    assert [request.query["page"] for request in api.requests] == [["1"], ["2"], ["3"]]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_docker_hub_exchanges_the_login_for_a_token(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    def private(request: Request) -> Reply:
        if request.path == "/v2/auth/token":
            return body_of(200, {"access_token": "eyJ.short.lived"})
        allowed = request.headers.get("Authorization") == "Bearer eyJ.short.lived"
        return docker_hub(request) if allowed else body_of(404, {"message": "object not found"})

    api = api_of(private)
    found = listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url), docker_config=config)
    assert len(found) == len(NAMES)
    assert [request.method for request in api.requests] == ["POST", "GET", "GET", "GET"]
    assert json.loads(api.requests[0].body) == {"identifier": "gordon", "secret": TOKEN}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (body_of(401, {"detail": "Incorrect authentication credentials"}), ListingDenied),
        (body_of(200, {"access_token": "with blank"}), SourceFailed),
        (body_of(200, []), SourceFailed),
        (Reply(307, {"Location": "https://elsewhere.example/v2/auth/token"}), SourceFailed),
    ],
)
def test_a_login_that_docker_hub_refuses_is_an_error(
    client_of: MakeClient, api_of: MakeApi, config: Path, reply: Reply, kind: type[MirrorError]
) -> None:
    api = api_of(lambda _: reply)
    error = failure(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url), docker_config=config)
    assert isinstance(error, kind)
    assert TOKEN not in repr((error, error.hint, error.reason))
    assert len(api.requests) == 1


def test_the_api_of_docker_hub_is_on_its_own_host() -> None:
    assert KNOWN_APIS["docker.io"] == ListingApi("docker-hub", "https://hub.docker.com")


def test_plugins_on_docker_hub_are_no_images(client_of: MakeClient, api_of: MakeApi) -> None:
    results = [{"name": "a", "repository_type": None}, {"name": "b", "repository_type": "plugin"}]
    api = api_of(lambda _: body_of(200, {"count": 2, "next": None, "results": results}))
    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url)) == ["bitnami/a"]


def test_quay_lists_the_public_repositories_of_a_namespace(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    api = api_of(quay)
    found = listed(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url), docker_config=config)
    assert found == [f"prometheus/{name}" for name in NAMES]
    assert [request.query.get("next_page") for request in api.requests] == [None, ["t=100"], ["t=200"]]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_github_lists_the_packages_of_an_organization(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(github)
    found = listed(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), docker_config=config)
    assert found == [f"homebrew/{name}" for name in [*NAMES[:120], "charts/nested"]]
    assert len(api.requests) == 2


def test_github_lists_the_packages_of_a_user(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(github)
    found = listed(client_of, "ghcr.io/octocat/*", ListingApi("github", api.url), docker_config=config)
    assert found == [f"octocat/{NAMES[0]}"]
    assert [request.path for request in api.requests] == ["/orgs/octocat/packages", "/users/octocat/packages"]


def test_github_needs_an_access_token(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(github)
    error = failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url))
    assert isinstance(error, ListingDenied)
    assert "ghcr.io wants credentials" in error.message


def test_the_limit_of_githubs_api_is_waited_for(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(lambda _: body_of(403, {"message": "API rate limit exceeded"}, x_ratelimit_remaining="0"))
    assert isinstance(failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url)), RateLimited)


def test_gitlab_lists_a_group_with_its_subgroups(client_of: MakeClient, api_of: MakeApi, config: Path) -> None:
    api = api_of(gitlab)
    pattern = "registry.gitlab.com/group/sub/*"
    found = listed(client_of, pattern, ListingApi("gitlab", api.url), docker_config=config)
    assert found == [f"group/sub/{name}" for name in NAMES]
    assert {request.headers.get("Authorization") for request in api.requests} == {f"Bearer {TOKEN}"}


def test_gitlab_lists_a_project_without_a_login(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(gitlab)
    found = listed(client_of, "registry.gitlab.com/group/project/*", ListingApi("gitlab", api.url))
    assert found == ["group/project/x"]
    assert not any("Authorization" in request.headers for request in api.requests)


def test_a_gitlab_of_ones_own_is_named_by_the_settings(client_of: MakeClient, api_of: MakeApi) -> None:
    found = listed(client_of, "registry.corp/group/sub/*", ListingApi("gitlab", api_of(gitlab).url))
    assert len(found) == len(NAMES)


@pytest.mark.parametrize(
    ("pattern", "vendor", "serve"),
    [
        ("ghcr.io/nobody/*", "github", github),
        ("registry.gitlab.com/nobody/*", "gitlab", gitlab),
    ],
)
def test_an_unknown_group_or_owner_is_an_error(
    client_of: MakeClient, api_of: MakeApi, config: Path, pattern: str, vendor: str, serve: Callable[[Request], Reply]
) -> None:
    error = failure(client_of, pattern, ListingApi(vendor, api_of(serve).url), docker_config=config)
    assert isinstance(error, RepositoryUnknown)
    assert "'nobody'" in error.message


def test_an_unknown_namespace_is_an_error(client_of: MakeClient, api_of: MakeApi) -> None:
    error = failure(client_of, "docker.io/nobody/*", ListingApi("docker-hub", api_of(docker_hub).url))
    assert isinstance(error, RepositoryUnknown)


@pytest.mark.parametrize("registry", ["quay.io", "ghcr.io", "registry.gitlab.com"])
def test_nobody_can_list_all_of_a_public_registry(client_of: MakeClient, registry: str) -> None:
    with pytest.raises(ListingUnsupported) as caught:
        list(client_of().repositories(RepositoryPattern.parse(f"{registry}/*")))
    assert f"{registry}/NAMESPACE/*" in caught.value.hint


# --- Harbor


class Harbor:
    """A Harbor whose catalog is for administrators. *projects* are those that `LOGIN` may see. It is a script."""

    def __init__(self, projects: dict[str, list[str]]) -> None:
        self.projects = projects

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if request.path == "/api/v2.0/ping":
            return Reply(200, {"Content-Type": "text/plain"}, b"Pong")
        if not request.path.startswith("/api/v2.0/"):
            return Reply(401, {"WWW-Authenticate": 'Basic realm="harbor"'}, b"{}")
        if request.headers.get("Authorization") != basic(LOGIN):
            return body_of(401, {"errors": [{"code": "UNAUTHORIZED", "message": "unauthorized"}]})
        every = [f"{project}/{name}" for project, names in self.projects.items() for name in names]
        project = request.path.removeprefix("/api/v2.0/projects/").removesuffix("/repositories")
        whole = request.path == "/api/v2.0/repositories"
        if not whole and project not in self.projects:
            return body_of(403, {"errors": [{"code": "FORBIDDEN"}]})
        shown = every if whole else [name for name in every if name.startswith(f"{project}/")]
        entries = [{"id": n, "name": name, "artifact_count": 1} for n, name in enumerate(shown)]
        return linked(request, entries, total="X-Total-Count")


@pytest.fixture
def harbor(registry: FakeRegistry) -> FakeRegistry:
    registry.script(Harbor({"team": [*NAMES, "sub/nested"], "other": ["x"]}))
    return registry


@pytest.fixture
def harbor_login(tmp_path: Path, registry: FakeRegistry) -> Path:
    path = tmp_path / "harbor.json"
    path.write_text(json.dumps({"auths": {registry.host: {"username": LOGIN[0], "password": LOGIN[1]}}}))
    return path


def test_harbor_lists_a_project(client_of: MakeClient, harbor: FakeRegistry, harbor_login: Path) -> None:
    client = client_of(harbor, docker_config=harbor_login)
    found = list(client.repositories(RepositoryPattern.parse(f"{harbor.host}/team/*")))
    assert found == [f"team/{name}" for name in [*NAMES, "sub/nested"]]
    paths = [request.path for request in harbor.log("api")]
    assert paths == ["/v2/_catalog"] * 2 + ["/api/v2.0/ping"] + ["/api/v2.0/projects/team/repositories"] * 3
    assert "Authorization" not in harbor.log("api", path="ping")[0].headers


def test_harbor_lists_all_that_the_login_may_see(
    client_of: MakeClient, harbor: FakeRegistry, harbor_login: Path
) -> None:
    client = client_of(harbor, docker_config=harbor_login)
    found = list(client.repositories(RepositoryPattern.parse(f"{harbor.host}/*")))
    assert (len(found), found[-1]) == (len(NAMES) + 2, "other/x")


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_project_that_harbor_hides_is_denied(
    client_of: MakeClient, harbor: FakeRegistry, harbor_login: Path, *, logged_in: bool
) -> None:
    client = client_of(harbor, docker_config=harbor_login if logged_in else None)
    with pytest.raises(ListingDenied):
        list(client.repositories(RepositoryPattern.parse(f"{harbor.host}/secret/*")))


@pytest.mark.parametrize(
    "ping",
    [
        Reply(200, {}, b"pong?"),
        Reply(200, {}, b"x" * 5000),
        Reply(404, {}, b"Pong"),
        Reply(500, {}, b"Pong"),
        Reply(302, {"Location": "https://elsewhere.example/api/v2.0/ping"}),
        Reply(0),
    ],
)
def test_what_does_not_reply_as_harbor_is_sent_no_password(
    client_of: MakeClient, harbor: FakeRegistry, harbor_login: Path, ping: Reply
) -> None:
    harbor.script(lambda q, _: ping if q.path == "/api/v2.0/ping" else None)
    client = client_of(harbor, docker_config=harbor_login)
    with pytest.raises(ListingDenied):
        list(client.repositories(RepositoryPattern.parse(f"{harbor.host}/team/*")))
    assert harbor.log("api", path="/api/v2.0/projects") == []


# --- what is wrong with a list


def hub_page(**fields: Any) -> Callable[[Request], Reply]:
    return lambda _: body_of(200, {"count": 1, "next": None, "results": [{"name": "a"}], **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"count": 3}, "after 1 of 3 entries"),
        ({"count": -1}, "no possible length"),
        ({"count": "1"}, "no possible length"),
        ({"count": True}, "no possible length"),
        ({"next": "https://hub.docker.com/v2/x?page=2"}, "the same page"),
        ({"results": "a"}, "is not a list"),
        ({"results": {"a": 1}}, "is not a list"),
    ],
)
def test_a_vendors_list_that_is_cut_off_or_damaged_fails(
    client_of: MakeClient, api_of: MakeApi, fields: dict[str, Any], reason: str
) -> None:
    error = failure(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(hub_page(**fields)).url))
    assert isinstance(error, SourceFailed)
    assert reason in error.message


def test_a_full_last_page_of_docker_hub_has_no_successor(client_of: MakeClient, api_of: MakeApi) -> None:
    results = [{"name": name} for name in NAMES[:100]]

    def exact(request: Request) -> Reply:
        found = request.query["page"] == ["1"]
        return body_of(200, {"count": 100, "next": None, "results": results}) if found else Reply(404)

    assert len(listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(exact).url))) == 100


def test_a_list_that_ends_before_its_total_fails(client_of: MakeClient, api_of: MakeApi) -> None:
    api = api_of(lambda _: body_of(200, [{"path": "group/a"}], X_Total="2"))
    error = failure(client_of, "registry.gitlab.com/group/*", ListingApi("gitlab", api.url))
    assert isinstance(error, SourceFailed)
    assert "after 1 of 2 entries" in error.message


def test_a_full_page_whose_link_was_dropped_has_a_successor(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    def without_link(request: Request) -> Reply:
        reply = github(request)
        reply.headers.pop("Link", None)
        return reply

    api = ListingApi("github", api_of(without_link).url)
    assert len(listed(client_of, "ghcr.io/homebrew/*", api, docker_config=config)) == 121


def test_a_page_names_no_url_that_is_requested(client_of: MakeClient, api_of: MakeApi) -> None:
    other = api_of(lambda _: Reply(404))

    def lying(request: Request) -> Reply:
        more = request.query["page"] == ["1"]
        return body_of(
            200, {"count": 2, "next": f"{other.url}/v2/secret" if more else None, "results": [{"name": "a"}]}
        )

    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api_of(lying).url)) == ["bitnami/a"]
    assert other.requests == []


@pytest.mark.parametrize("token", [7, ["a"], "x" * 2000, "a\nb", "é"])
def test_a_token_that_cannot_be_sent_fails_the_list(client_of: MakeClient, api_of: MakeApi, token: Any) -> None:
    api = api_of(lambda _: body_of(200, {"repositories": [{"name": "a"}], "next_page": token}))
    error = failure(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url))
    assert isinstance(error, SourceFailed)
    assert "next_page" in error.message


def test_a_token_that_repeats_fails_the_list(client_of: MakeClient, api_of: MakeApi) -> None:
    names = count()
    api = api_of(lambda _: body_of(200, {"repositories": [{"name": f"a{next(names)}"}], "next_page": "x&y=z"}))
    error = failure(client_of, "quay.io/prometheus/*", ListingApi("quay", api.url))
    assert isinstance(error, SourceFailed)
    assert "circle" in error.message
    assert [request.query.get("next_page") for request in api.requests] == [None, ["x&y=z"]]


def test_names_outside_the_namespace_are_not_taken(client_of: MakeClient, api_of: MakeApi) -> None:
    names = ["../admin/x", "a/../../b", "A", "good"]
    api = api_of(lambda _: body_of(200, {"next": None, "results": [{"name": name} for name in names]}))
    assert listed(client_of, "docker.io/bitnami/*", ListingApi("docker-hub", api.url)) == ["bitnami/good"]
    paths = [{"path": "other/x"}, {"path": "group/x"}]
    other = api_of(lambda _: body_of(200, paths))
    assert listed(client_of, "registry.gitlab.com/group/*", ListingApi("gitlab", other.url)) == ["group/x"]


def test_a_redirect_drops_the_token_and_stays_off_plain_http(
    client_of: MakeClient, api_of: MakeApi, config: Path
) -> None:
    other = api_of(lambda _: body_of(200, [{"name": "a"}]))
    api = api_of(lambda _: Reply(302, {"Location": f"{other.url}/x"}))
    error = failure(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), docker_config=config)
    assert isinstance(error, PlainHttpNotAllowed)
    insecure = frozenset({other.server.host})
    settings = {"docker_config": config, "insecure_registries": insecure}
    assert listed(client_of, "ghcr.io/homebrew/*", ListingApi("github", api.url), **settings) == ["homebrew/a"]
    assert [request.headers.get("Authorization") for request in other.requests] == [None]
