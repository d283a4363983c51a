"""Our client lists what our own `/v2` holds, in real pages: a mirror may be the source of another mirror."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from mirror.errors import RepositoryUnknown
from mirror.oci.reference import RepositoryPattern
from mirror.registry.client import RegistryClient
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import MakeSettings
from tests.support.fakes.throttle import UNTHROTTLED
from tests.support.images import image, layer

TAGS = [f"v{n:02}" for n in range(25)]


@pytest.fixture
def client(live: LiveService, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryClient]:
    """A client that asks for pages of ten entries."""
    monkeypatch.setattr("mirror.registry.listing.PAGE_SIZE", 10)
    monkeypatch.setattr("mirror.registry.listing._FIRST", "n=10")
    place = {"allowed_networks": (ip_network("127.0.0.0/8"),), "insecure_registries": frozenset({live.host})}
    made = RegistryClient.from_settings(settings(**place), throttle=UNTHROTTLED)
    yield made
    made.close()


def test_tags_and_repositories_of_a_mirror_are_listed(
    client: RegistryClient, live: LiveService, live_mirror: SeededCatalog
) -> None:
    held = image(layer("listed"))
    for tag in TAGS:
        live_mirror.hold(held, f"listed/app:{tag}")
    for number in range(11):
        live_mirror.hold(held, f"listed/other{number:02}:1")
    assert list(client.tags(RepositoryPattern(live.host, "listed/app"))) == TAGS
    whole = list(client.repositories(RepositoryPattern.parse(f"{live.host}/listed/*")))
    assert whole == ["listed/app", *(f"listed/other{number:02}" for number in range(11))]
    with pytest.raises(RepositoryUnknown):
        list(client.tags(RepositoryPattern(live.host, "listed/nothing")))
