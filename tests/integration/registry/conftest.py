"""A scripted registry, and clients of it that do not wait between attempts."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.registry.client import RegistryClient
from mirror.registry.manifests import FetchedManifest
from tests.conftest import MakeSettings
from tests.support.fakes.registry import FakeRegistry, Tokens
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import TestImage, image, layer

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
REPOSITORY = "team/app"

LOGIN = ("gordon", "s3cret:with:colons")
"""A user and password, as `docker login` takes them."""

MakeClient = Callable[..., RegistryClient]


def get_manifest(client: RegistryClient, reference: Reference, *, expect: Descriptor | None = None) -> FetchedManifest:
    """Read one manifest."""
    with client.reading(reference) as manifests:
        return manifests.get(reference, expect=expect)


def login_entry() -> dict[str, str]:
    """`LOGIN` as an entry of a config.json."""
    return {"auth": base64.b64encode(":".join(LOGIN).encode()).decode()}


def docker_config(directory: Path, host: str, entry: dict[str, str]) -> Path:
    """A config.json with one entry."""
    path = directory / "config.json"
    path.write_text(json.dumps({"auths": {host: entry}}))
    return path


@pytest.fixture
def config(tmp_path: Path, registry: FakeRegistry) -> Path:
    """A config.json with `LOGIN` for the registry."""
    return docker_config(tmp_path, registry.host, login_entry())


@pytest.fixture
def tokens(registry: FakeRegistry) -> Tokens:
    """The token server of a registry that has one."""
    assert registry.tokens is not None
    return registry.tokens


@pytest.fixture
def app() -> TestImage:
    return image(layer("app"), layer("more", 70_000))


@pytest.fixture
def registry(app: TestImage) -> Iterator[FakeRegistry]:
    """An open registry that holds `app` as team/app:1."""
    with FakeRegistry() as fake:
        fake.put(app, REPOSITORY, "1")
        yield fake


@pytest.fixture
def reference(registry: FakeRegistry) -> Reference:
    return Reference.parse(f"{registry.host}/{REPOSITORY}:1")


@pytest.fixture
def repository(registry: FakeRegistry) -> RepositoryPattern:
    return RepositoryPattern(registry.host, REPOSITORY)


@pytest.fixture
def whole(registry: FakeRegistry) -> RepositoryPattern:
    """All repositories of the registry."""
    return RepositoryPattern.parse(f"{registry.host}/*")


@pytest.fixture
def subject(registry: FakeRegistry, app: TestImage) -> Reference:
    """The digest of `app`, at a registry that has the referrers API."""
    registry.referrers_api = True
    return Reference(registry.host, REPOSITORY, None, app.digest)


@pytest.fixture
def waits() -> list[float]:
    """The seconds that clients would have waited between attempts."""
    return []


@pytest.fixture
def client_of(settings: MakeSettings, waits: list[float]) -> Iterator[MakeClient]:
    """Makes clients that may use loopback, and plain HTTP for the given registries."""
    made: list[RegistryClient] = []

    def make(*registries: FakeRegistry, **fields: Any) -> RegistryClient:
        insecure = frozenset(registry.host for registry in registries)
        place = {"allowed_networks": LOOPBACK, "insecure_registries": insecure}
        chosen = settings(**{**place, **fields})
        made.append(RegistryClient.from_settings(chosen, throttle=UNTHROTTLED, sleep=waits.append))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(client_of: MakeClient, registry: FakeRegistry) -> RegistryClient:
    return client_of(registry)
