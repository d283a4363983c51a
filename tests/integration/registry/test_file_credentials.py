"""Credentials of the sync file at a registry that wants a login. They come before those of the Docker configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.errors import CredentialsUnavailable, Unauthorized
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.schedules.file_credentials import FileCredentials
from tests.conftest import MakeSettings
from tests.integration.registry.conftest import LOGIN, LOOPBACK, docker_config, get_manifest
from tests.support.fakes.registry import FakeRegistry
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import TestImage

USER, PASSWORD = LOGIN
WRONG = {"username": USER, "password": "wrong"}
RIGHT = {"username": USER, "password": PASSWORD}
Connect = Callable[[str, dict[str, str]], RegistryClient]


@pytest.fixture
def connect(settings: MakeSettings, registry: FakeRegistry, tmp_path: Path) -> Connect:
    """Makes a client with a sync file that has a credential for some name, and with a Docker configuration."""
    registry.basic = LOGIN

    def connect(name: str, entry: dict[str, str]) -> RegistryClient:
        path = tmp_path / "mirror.yaml"
        path.write_text(
            "version: 1\nsyncs: []\n"
            f"credentials: {{a: {{registry: '{name}', username: '{USER}', password: '${{TOKEN}}'}}}}\n"
        )
        config = docker_config(tmp_path, registry.host, entry)
        place = settings(
            allowed_networks=LOOPBACK, insecure_registries=frozenset({registry.host}), docker_config=config
        )
        credentials = FileCredentials(path, {"TOKEN": PASSWORD})
        return RegistryClient.from_settings(place, throttle=UNTHROTTLED, credentials=credentials.credential)

    return connect


def test_the_file_comes_before_the_docker_configuration(
    connect: Connect, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    assert get_manifest(connect(registry.host, WRONG), reference).body == app.body
    assert get_manifest(connect(f"{registry.host}/team", WRONG), reference).body == app.body


def test_what_the_file_lacks_is_in_the_docker_configuration(
    connect: Connect, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    assert get_manifest(connect("other.example", RIGHT), reference).body == app.body
    with pytest.raises(Unauthorized):
        get_manifest(connect(f"{registry.host}/other", WRONG), reference)


def test_a_file_that_cannot_be_read_fails_the_request_and_is_not_passed_over(
    connect: Connect, reference: Reference, tmp_path: Path
) -> None:
    client = connect("other.example", RIGHT)
    (tmp_path / "mirror.yaml").write_text("version: 1\nsyncs: [")
    with pytest.raises(CredentialsUnavailable, match="the sync file cannot be used: line 3, column 1"):
        get_manifest(client, reference)
