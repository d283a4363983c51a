"""Docker Hub and GCR by their names, through an endpoint with Docker Hub's token flow, with a login and without."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.records.job_request import ImageRequest
from mirror.records.spec import CopySpec
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Tokens
from tests.support.harness import Harness
from tests.support.servers import RcloneS3

LOGIN = ("somebody", "s3cret-pass")


@pytest.fixture
def s3_server(rclone_s3: RcloneS3) -> RcloneS3:
    """These tests are about the source. Any S3 server will do."""
    return rclone_s3


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
    harness: Harness,
    docker_config: Path | None,
    login: tuple[str, str] | None,
    source: str,
    repository: str,
    target: str,
) -> None:
    image = images.three_platforms("known")
    harness.registry.put(image, repository, target.rpartition(":")[2])
    known = harness.with_settings(
        registry_endpoints={"docker.io": harness.registry.url, "gcr.io": harness.registry.url},
        insecure_registries=frozenset({harness.registry.cdn_host}),
        docker_config=docker_config,
    )
    job = known.run_tasks(known.core.submitter.submit([ImageRequest(source)])[0])
    known.core.close()
    assert (job.state, job.error, job.digest) == ("succeeded", None, str(image.digest))
    assert isinstance(job.spec, CopySpec)
    assert str(job.spec.target) == target
    [asked] = harness.registry.log(path="/token")
    assert ("Authorization" in asked.headers) == (login is not None)
    elsewhere = harness.registry.log("cdn")
    assert elsewhere
    assert not any("Authorization" in seen.headers for seen in elsewhere)
