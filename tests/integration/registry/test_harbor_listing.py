"""The API of a Harbor that lists its repositories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirror.errors import ListingDenied
from mirror.oci.reference import RepositoryPattern
from tests.integration.registry.conftest import LOGIN, MakeClient
from tests.integration.registry.vendor_apis import NAMES, linked
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.lists import body_of
from tests.support.fakes.registry import FakeRegistry
from tests.support.fakes.server import Reply, Request


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
