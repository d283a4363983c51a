from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from mirror.redis import keys
from mirror.wiring import Core
from service.api.client_config.clients import CLIENTS
from service.app import create_app
from service.core import Service
from tests.api.conftest import TOKEN, with_settings
from tests.api.seeded_catalog import SeededCatalog
from tests.support import images

PULL_TOKEN = "pull-token-of-the-nodes-0123456789"


@pytest.fixture
def held(mirror: SeededCatalog) -> None:
    image = images.image(images.layer("any"))
    for name in ("docker.io/library/redis:7", "quay.io/team/app:1", "team/app:1"):
        mirror.hold(image, name)


@pytest.fixture
def closed(service: Service) -> FlaskClient:
    client = create_app(with_settings(service, anonymous_pull=False, pull_token=(PULL_TOKEN,))).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


@pytest.mark.usefixtures("held")
def test_files_are_for_what_is_really_mirrored(api: FlaskClient) -> None:
    answer = api.get("/v1/client-config/containerd").get_json()
    assert answer["registries"] == ["docker.io", "quay.io"]
    folder = "/etc/containerd/certs.d"
    assert [file["path"] for file in answer["files"]] == [
        f"{folder}/docker.io/hosts.toml",
        f"{folder}/quay.io/hosts.toml",
    ]
    assert (answer["mirror"], answer["login"], answer["placeholders"]) == ("https://mirror.example:8443", None, {})


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_closed_mirror_gives_no_token_away(closed: FlaskClient, client: str) -> None:
    response = closed.get(f"/v1/client-config/{client}")
    text = response.get_data(as_text=True)
    assert response.status_code == 200
    assert "MIRROR_PULL_TOKEN" in text
    assert PULL_TOKEN not in text
    assert TOKEN not in text
    assert closed.get(f"/v1/client-config/{client}/script").get_data(as_text=True) == response.get_json()["script"]


@pytest.mark.usefixtures("held")
def test_the_script_alone_is_text(api: FlaskClient) -> None:
    response = api.get("/v1/client-config/podman/script?registries=ghcr.io")
    assert response.content_type == "text/x-shellscript; charset=utf-8"
    assert 'location = "mirror.example:8443/ghcr.io"' in response.get_data(as_text=True)


def test_registries_can_be_named_before_anything_is_mirrored(api: FlaskClient) -> None:
    refused = api.get("/v1/client-config/docker")
    assert (refused.status_code, refused.get_json()["code"]) == (404, "NO_REGISTRY_MIRRORED")
    answer = api.get("/v1/client-config/podman?registries=registry-1.docker.io,%20Quay.io,docker.io").get_json()
    assert answer["registries"] == ["docker.io", "quay.io"]


@pytest.mark.parametrize("path", ["rkt", "rkt/script", "Docker"])
def test_an_unknown_client_is_answered_with_the_known_ones(api: FlaskClient, path: str) -> None:
    response = api.get(f"/v1/client-config/{path}")
    assert (response.status_code, response.get_json()["code"]) == (404, "CLIENT_UNKNOWN")
    assert all(client in response.get_json()["hint"] for client in CLIENTS)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("registries=", "registries"),
        ("registries=docker.io,bad_host", "registries"),
        ("registries=" + ",".join(f"r{number}.corp" for number in range(101)), "registries"),
        ("registries=" + "a" * 9000, "registries"),
        ("fallback=perhaps", "fallback"),
        ("ca_file=relative.pem", "ca_file"),
        ("ca_file=/etc/%22;id", "ca_file"),
        ("ca_file=/etc/a%0A", "ca_file"),
        ("registry=docker.io", "registry"),
    ],
)
def test_a_wrong_parameter_is_named(api: FlaskClient, query: str, parameter: str) -> None:
    response = api.get(f"/v1/client-config/containerd?{query}")
    assert response.status_code == 422, response.get_json()
    assert [problem["parameter"] for problem in response.get_json()["errors"]] == [parameter]


def test_dockerd_cannot_be_kept_from_docker_hub(api: FlaskClient) -> None:
    response = api.get("/v1/client-config/docker?registries=docker.io&fallback=false")
    assert (response.status_code, response.get_json()["code"]) == (422, "FALLBACK_UNAVOIDABLE")


def test_more_registries_than_can_be_listed_are_a_trap(api: FlaskClient, core: Core) -> None:
    names = [part for number in range(101) for part in (0, f"registry{number:03}.corp/app")]
    core.redis.call("ZADD", keys.INDEX_REPOSITORIES, *names)
    answer = api.get("/v1/client-config/cri-o").get_json()
    assert len(answer["registries"]) == 100
    assert "?registries=" in answer["traps"][0]


def test_an_index_that_is_being_rebuilt_is_a_503(api: FlaskClient, core: Core) -> None:
    core.redis.call("DEL", keys.INDEX_BUILT)
    assert api.get("/v1/client-config/docker").get_json()["code"] == "CATALOG_REBUILDING"
    assert api.get("/v1/client-config/docker?registries=docker.io").status_code == 200


def test_only_the_admin_reads_configurations(anyone: FlaskClient, closed: FlaskClient) -> None:
    assert anyone.get("/v1/client-config/docker").status_code == 401
    closed.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {PULL_TOKEN}"
    assert closed.get("/v1/client-config/docker").status_code == 403
