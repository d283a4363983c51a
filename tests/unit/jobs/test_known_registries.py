"""Docker Hub and GCR by their names, through an endpoint with Docker Hub's token flow, with a login and without."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.copying.copier import Copier
from mirror.copying.memory import MemoryBudget
from mirror.jobs.submission import Submitter, Wanted
from mirror.registry.client import RegistryClient
from tests import images
from tests.conftest import MakeSettings
from tests.fakes.registry import FakeRegistry, Tokens
from tests.plant import Plant

LOGIN = ("somebody", "s3cret-pass")


@pytest.fixture(params=[None, LOGIN], ids=["anonymous", "with a login"])
def login(request: pytest.FixtureRequest) -> tuple[str, str] | None:
    found: tuple[str, str] | None = request.param
    return found


@pytest.fixture
def registry(login: tuple[str, str] | None) -> Iterator[FakeRegistry]:
    with FakeRegistry(tokens=Tokens(login=login), token_on_api=True, redirect_blobs=True) as fake:
        yield fake


@pytest.fixture
def docker_config(tmp_path: Path, login: tuple[str, str] | None) -> Path | None:
    """The login as `docker login` writes it, for both registries."""
    if login is None:
        return None
    entry = {"auth": base64.b64encode(":".join(login).encode()).decode()}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": entry, "gcr.io": entry}}))
    return path


@pytest.mark.parametrize(
    ("source", "repository", "target"),
    [
        ("redis", "library/redis", "docker.io/library/redis:latest"),
        ("gcr.io/project/app:1", "project/app", "gcr.io/project/app:1"),
    ],
)
def test_a_known_registry_lands_under_its_own_name_with_one_token_and_no_authorization_elsewhere(
    plant: Plant,
    settings: MakeSettings,
    docker_config: Path | None,
    login: tuple[str, str] | None,
    source: str,
    repository: str,
    target: str,
) -> None:
    image = images.three_platforms("known")
    plant.registry.put(image, repository, target.rpartition(":")[2])
    chosen = settings(
        registry_endpoints={"docker.io": plant.registry.url, "gcr.io": plant.registry.url},
        insecure_registries=frozenset({plant.registry.cdn_host}),
        allowed_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        docker_config=docker_config,
    )
    client = RegistryClient.from_settings(chosen)
    copier = Copier(client, plant.bucket, plant.redis, MemoryBudget(64 * 2**20))
    known = replace(
        plant,
        submitter=Submitter(plant.store, plant.queue, chosen),
        performer=replace(plant.performer, source=client, copier=copier),
    )
    job = known.perform(known.submitter.submit([Wanted(source)])[0])
    client.close()
    assert (job.state, job.error, job.target, job.digest) == ("succeeded", None, target, str(image.digest))
    [asked] = plant.registry.log(path="/token")
    assert ("Authorization" in asked.headers) == (login is not None)
    elsewhere = plant.registry.log("cdn")
    assert elsewhere
    assert not any("Authorization" in seen.headers for seen in elsewhere)
