"""Lists of CNCF distribution's own registry, with more entries than a page has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import RepositoryUnknown
from mirror.oci.media_types import OCI_MANIFEST
from mirror.oci.reference import Reference, RepositoryPattern
from mirror.registry.client import RegistryClient
from mirror.registry.manifests import ManifestHead
from tests.integration.registry.conftest import MakeClient
from tests.support.images import image, layer, push
from tests.support.servers import DockerRegistry
from tests.support.servers.docker_registry import FilesystemStorage

pytestmark = pytest.mark.docker_registry

PUSHED = image(layer("listed"))
TAGS = [f"v{n}" for n in range(2500)]
TEAMS = [f"team-{n}/app" for n in range(1200)]


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A registry with a repository of 2 500 tags, and with 1 200 other repositories.

    One image is pushed. The others are made in the registry's folder as it makes them itself, by links.
    """
    directory = tmp_path_factory.mktemp("stocked")
    with DockerRegistry(directory, FilesystemStorage(directory / "files")) as server:
        push(PUSHED, server.url, "many/tags", TAGS[0])
        repositories = directory / "files" / "docker" / "registry" / "v2" / "repositories"
        for team in TEAMS:
            shutil.copytree(repositories / "many" / "tags", repositories / team)
        tags = repositories / "many" / "tags" / "_manifests" / "tags"
        for tag in TAGS[1:]:
            _link(tags / TAGS[0] / "current" / "link", tags / tag / "current")
        yield server


def _link(link: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(link, folder)


@pytest.fixture
def client(client_of: MakeClient, stocked: DockerRegistry) -> RegistryClient:
    return client_of(insecure_registries=frozenset({stocked.host}))


def test_all_tags_of_a_repository_are_listed(client: RegistryClient, stocked: DockerRegistry) -> None:
    repository = RepositoryPattern(stocked.host, "many/tags")
    assert sorted(client.tags(repository)) == sorted(TAGS)
    head = client.head(repository.tagged(TAGS[-1]))
    assert head == ManifestHead(PUSHED.digest, OCI_MANIFEST, len(PUSHED.body))


def test_exactly_one_full_page_of_tags_is_listed(client: RegistryClient, stocked: DockerRegistry) -> None:
    storage = stocked.storage
    assert isinstance(storage, FilesystemStorage)
    tags = storage.root / "docker" / "registry" / "v2" / "repositories" / TEAMS[0] / "_manifests" / "tags"
    for n in range(1, 1000):
        _link(tags / TAGS[0] / "current" / "link", tags / f"v{n}" / "current")
    assert len(list(client.tags(RepositoryPattern(stocked.host, TEAMS[0])))) == 1000


def test_the_whole_catalog_is_listed_in_pages(client: RegistryClient, stocked: DockerRegistry) -> None:
    assert sorted(client.repositories(RepositoryPattern.parse(f"{stocked.host}/*"))) == sorted([*TEAMS, "many/tags"])
    pages = [path for _, path in stocked.requests() if path.startswith("/v2/_catalog")]
    assert pages == ["/v2/_catalog?n=1000", f"/v2/_catalog?{pages[1].partition('?')[2]}"]
    assert "last=" in pages[1]


def test_the_repositories_below_a_prefix_are_listed(client: RegistryClient, stocked: DockerRegistry) -> None:
    assert list(client.repositories(RepositoryPattern.parse(f"{stocked.host}/team-7/*"))) == ["team-7/app"]
    assert list(client.repositories(RepositoryPattern.parse(f"{stocked.host}/nobody/*"))) == []


def test_a_repository_that_is_not_there_is_unknown(client: RegistryClient, stocked: DockerRegistry) -> None:
    with pytest.raises(RepositoryUnknown):
        list(client.tags(RepositoryPattern(stocked.host, "many/others")))
    assert client.head(Reference.parse(f"{stocked.host}/many/others:1")) is None
