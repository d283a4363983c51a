"""Where a registry's API is, and where plain HTTP is allowed."""

from __future__ import annotations

import pytest

from mirror.http.transport import Origin
from mirror.registry.endpoints import Endpoints

ENDPOINTS = Endpoints(
    insecure=frozenset({"old.corp", "lab.corp:5000"}),
    overrides={"docker.io": "http://hub-proxy.corp:8081/docker", "gcr.io": "https://gcr-proxy.corp"},
)


@pytest.mark.parametrize(
    ("registry", "url"),
    [
        ("docker.io", "http://hub-proxy.corp:8081/docker"),
        ("gcr.io", "https://gcr-proxy.corp"),
        ("quay.io", "https://quay.io"),
        ("old.corp", "http://old.corp"),
        ("old.corp:5000", "https://old.corp:5000"),
        ("lab.corp:5000", "http://lab.corp:5000"),
        ("lab.corp", "https://lab.corp"),
    ],
)
def test_a_registry_has_one_url(registry: str, url: str) -> None:
    assert ENDPOINTS.base_url(registry) == url


def test_docker_hubs_api_is_on_another_host() -> None:
    assert Endpoints().base_url("docker.io") == "https://registry-1.docker.io"


@pytest.mark.parametrize(
    ("registry", "url", "permitted"),
    [
        ("quay.io", "https://cdn.quay.io", True),
        ("quay.io", "http://quay.io", False),
        ("quay.io", "http://hub-proxy.corp:8081", False),
        ("docker.io", "http://hub-proxy.corp:8081", True),
        ("docker.io", "http://hub-proxy.corp:8082", False),
        ("docker.io", "http://hub-proxy.corp", False),
        ("gcr.io", "http://gcr-proxy.corp", False),
        ("lab.corp:5000", "http://lab.corp:5000", True),
        ("lab.corp:5000", "http://lab.corp:5001", True),
        ("lab.corp:5000", "http://other.corp:5000", False),
        ("quay.io", "http://lab.corp:5000", True),
        ("quay.io", "http://lab.corp:5001", False),
        ("quay.io", "http://old.corp", True),
    ],
)
def test_plain_http_is_permitted_only_where_the_settings_allow_it(registry: str, url: str, *, permitted: bool) -> None:
    assert ENDPOINTS.permits(registry, Origin.of(url)) is permitted


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("https://anywhere.example", True),
        ("http://anywhere.example", False),
        ("http://hub-proxy.corp:8081", False),
        ("http://lab.corp:5000", True),
        ("http://lab.corp:5001", False),
        ("http://old.corp", True),
    ],
)
def test_a_manifest_may_name_a_url_without_tls_only_at_an_insecure_registry(url: str, *, permitted: bool) -> None:
    assert ENDPOINTS.permits_anyone(Origin.of(url)) is permitted
