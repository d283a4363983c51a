"""Each kind of artifact is mirrored with its image, and read back.

The real tools wrote the artifacts. They are read from the mirror, and from a stock registry on its bucket.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.referrer import fallback_tag
from mirror.redis.client import Redis
from tests.api.live_service import LiveService
from tests.e2e.processes import Process, eventually
from tests.support.artifact_matrix import KINDS, SOURCES, Cell, Kind, cells
from tests.support.artifacts import FOLDER, StoredRepository
from tests.support.fakes.registry import FakeRegistry
from tests.support.harness import mark_built
from tests.support.servers import DockerRegistry, RcloneS3, S3Storage, ValkeyServer

pytestmark = pytest.mark.docker_registry

POSSIBLE: Final = [cell for cell in cells() if cell.missing is None]
Origin = tuple[Kind, str]
ORIGINS: Final = [(kind, source) for kind in KINDS for source in SOURCES]
FORMS: Final = {"cosign-v2-tag": "cosign-tag", "cosign-v2-referrer": "cosign-referrer", "cosign-v3-bundle": "bundle"}
SIGNED_BY_COSIGN: Final = [(kind, source) for kind, source in ORIGINS if kind.id in FORMS]
ACCEPT: Final = {"Accept": ", ".join(media_types.ACCEPTED)}


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror of processes, a stock registry on its bucket, and the fixtures at their sources."""

    service: LiveService
    stock: DockerRegistry
    hosts: dict[str, str]
    fixtures: dict[Origin, StoredRepository]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Request our API. Return its JSON."""
        with urllib3.PoolManager(retries=False, timeout=20) as pool:
            answer = pool.request(method, self.service.url + path, headers=self.service.headers, json=body)
        assert answer.status in (200, 202), answer.data
        document: dict[str, Any] = answer.json()
        return document

    def copied(self, origins: list[Origin], *, under: str = "", **options: Any) -> dict[Origin, dict[str, Any]]:
        """Copy fixtures with one job, to targets *under* a namespace. Return the task of each one."""
        requested = [
            {
                "source": f"{self.hosts[source]}/artifacts/{kind.id}:{kind.tag}",
                "target": f"{under}{target(kind, source)}:{kind.tag}",
                **options,
            }
            for kind, source in origins
        ]
        job = self.ask("POST", "/v1/jobs", {"images": requested})["id"]

        def has_ended() -> bool:
            return self.ask("GET", f"/v1/jobs/{job}")["finished_at"] is not None

        eventually(has_ended, within=100, what="the fixtures were copied")
        tasks = self.ask("GET", f"/v1/jobs/{job}/tasks?limit=100")["items"]
        by_target = {task["target"]: task for task in tasks}
        return {origin: by_target[request["target"]] for origin, request in zip(origins, requested, strict=True)}

    def repository(self, cell: Cell) -> Repository:
        """Return the repository that a cell is about, at the server where it is read."""
        server: LiveService | DockerRegistry = self.service if cell.reader == "mirror" else self.stock
        base = f"http://127.0.0.1:{server.port}/v2/{target(cell.kind, cell.source)}"
        return Repository(base, has_referrers=cell.reader == "mirror")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as a client of one server sees it."""

    base: str
    has_referrers: bool

    def get(self, path: str) -> bytes:
        with urllib3.PoolManager(retries=False, timeout=20) as pool:
            answer = pool.request("GET", f"{self.base}/{path}", headers=ACCEPT)
        assert answer.status == 200, (path, answer.status, answer.data)
        return answer.data

    def referrers(self, subject: Digest) -> dict[Digest, dict[str, Any]]:
        """Return the list of a subject's referrers: by the API, or by the fallback tag where there is no API."""
        path = f"referrers/{subject}" if self.has_referrers else f"manifests/{fallback_tag(subject)}"
        document = json.loads(self.get(path))
        assert document["mediaType"] == media_types.OCI_INDEX
        return {Digest.parse(entry["digest"]): entry for entry in document["manifests"]}


def target(kind: Kind, source: str) -> str:
    """Return the repository of the mirror with a fixture."""
    return f"{source}/{kind.id}"


@pytest.fixture(scope="module")
def mirror(
    tmp_path_factory: pytest.TempPathFactory, rclone_s3: RcloneS3, docker_registry: DockerRegistry
) -> Iterator[Mirror]:
    prefix = f"tests/{secrets.token_hex(8)}"
    folders = {name: tmp_path_factory.mktemp(name) for name in ("valkey", "service", "stock", "worker")}
    with ExitStack() as running:
        with_api = running.enter_context(FakeRegistry(referrers_api=True))
        hosts = {"api": with_api.host, "fallback": docker_registry.host}
        allowed = {
            "MIRROR_INSECURE_REGISTRIES": ",".join(hosts.values()),
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        valkey = running.enter_context(ValkeyServer(folders["valkey"]))
        redis = Redis.connect(valkey.url)
        mark_built(redis)
        redis.close()
        settings = {"MIRROR_ANONYMOUS_PULL": "true", **allowed}
        service = running.enter_context(LiveService(folders["service"], valkey, rclone_s3, prefix, **settings))
        stock = running.enter_context(DockerRegistry(folders["stock"], S3Storage(rclone_s3, prefix)))
        environment = {**rclone_s3.settings_env(prefix), "MIRROR_REDIS_URL": valkey.url, **allowed}
        running.enter_context(Process("worker", environment, folders["worker"] / "worker.log"))
        fixtures = {(kind, source): StoredRepository.load(f"{kind.id}-{source}") for kind, source in ORIGINS}
        for (kind, source), fixture in fixtures.items():
            if source == "api":
                fixture.put_into(with_api, f"artifacts/{kind.id}")
            else:
                fixture.push_to(docker_registry.url, f"artifacts/{kind.id}")
        yield Mirror(service, stock, hosts, fixtures)


@pytest.fixture(scope="module")
def tasks(mirror: Mirror) -> dict[Origin, dict[str, Any]]:
    """The task of each fixture, which has ended."""
    return mirror.copied(ORIGINS)


def test_each_task_succeeds_and_counts_what_the_image_drags_along(
    mirror: Mirror, tasks: dict[Origin, dict[str, Any]]
) -> None:
    for origin, task in tasks.items():
        assert task["state"] == "succeeded", (origin, task["error"])
        fixture = mirror.fixtures[origin]
        about = {digest for digest in fixture.manifests if "subject" in fixture.document(digest)}
        own = about & set(fixture.children(fixture.tags[origin[0].tag]))
        tagged = [tag for tag in fixture.tags if tag.endswith((".sig", ".att", ".sbom"))]
        counts = {"copied": len(about - own) + len(tagged), "unchanged": len(own), "left_out": 0}
        assert task["referrers"] == counts, origin


@pytest.mark.parametrize("cell", POSSIBLE, ids=lambda cell: cell.id)
@pytest.mark.usefixtures("tasks")
def test_each_cell_of_the_matrix(mirror: Mirror, cell: Cell) -> None:
    fixture = mirror.fixtures[cell.kind, cell.source]
    repository = mirror.repository(cell)
    root = fixture.tags[cell.kind.tag]
    assert repository.get(f"manifests/{cell.kind.tag}") == fixture.manifests[root].body
    subject = root if cell.subject == "index" else fixture.children(root)[0]
    read_whole(repository, fixture, subject)
    for suffix in cell.kind.suffixes:
        tagged = read_tagged(repository, fixture, f"sha256-{subject.hex}{suffix}")
        if suffix == ".sbom":
            read_tagged(repository, fixture, f"sha256-{tagged.hex}.sig")
    if cell.kind.is_child:
        read_whole(repository, fixture, attestation_of(fixture, root, subject))
    if cell.kind.types or fixture.referrers(subject):
        listed = read_listed(repository, fixture, subject)
        assert listed == set(cell.kind.types) or cell.kind.is_child


def test_a_job_that_requires_the_key_of_the_signer_finds_what_cosign_wrote(mirror: Mirror) -> None:
    policy = {"keys": [(FOLDER / "cosign.pub").read_text(encoding="utf-8")]}
    for (kind, source), task in mirror.copied(SIGNED_BY_COSIGN, under="signed/", signature=policy).items():
        assert task["state"] == "succeeded", (kind.id, source, task["error"])
        verdict = task["signature"]
        assert verdict["form"] == FORMS[kind.id]
        assert Digest.parse(verdict["signature"]) in mirror.fixtures[kind, source].manifests


def test_a_job_that_requires_another_key_publishes_nothing(mirror: Mirror) -> None:
    """The key of notation's certificate signed none of these images."""
    certificate = x509.load_pem_x509_certificate((FOLDER / "notation.crt").read_bytes())
    pem = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    policy = {"keys": [pem.decode()]}
    for origin, task in mirror.copied(SIGNED_BY_COSIGN, under="refused/", signature=policy).items():
        assert task["error"]["code"] == "SIGNATURE_REQUIRED", origin
    assert not [one for one in mirror.ask("GET", "/v1/repositories")["items"] if one["name"].startswith("refused/")]


def attestation_of(fixture: StoredRepository, root: Digest, image: Digest) -> Digest:
    """Return the entry of the index that attests *image*, as BuildKit's attestation-storage.md describes it."""
    [found] = [
        entry["digest"]
        for entry in fixture.document(root)["manifests"]
        if (entry.get("annotations") or {}).get("vnd.docker.reference.digest") == str(image)
    ]
    return Digest.parse(found)


def read_whole(repository: Repository, fixture: StoredRepository, digest: Digest) -> None:
    """Read a manifest and all its blobs, and compare each byte."""
    assert repository.get(f"manifests/{digest}") == fixture.manifests[digest].body
    for blob, content in fixture.blobs_of(digest).items():
        assert repository.get(f"blobs/{blob}") == content


def read_tagged(repository: Repository, fixture: StoredRepository, tag: str) -> Digest:
    """Read what a tag shows, and compare each byte. Return its digest."""
    digest = fixture.tags[tag]
    assert repository.get(f"manifests/{tag}") == fixture.manifests[digest].body
    assert tag in json.loads(repository.get("tags/list"))["tags"]
    read_whole(repository, fixture, digest)
    return digest


def read_listed(repository: Repository, fixture: StoredRepository, subject: Digest) -> set[str]:
    """Read the referrers of a subject, and theirs. Return the artifact types that the list of *subject* names."""
    listed = repository.referrers(subject)
    assert set(listed) == set(fixture.referrers(subject))
    for digest, entry in listed.items():
        document = fixture.document(digest)
        assert entry["mediaType"] == fixture.manifests[digest].media_type
        assert entry["size"] == len(fixture.manifests[digest].body)
        assert entry["artifactType"] == (document.get("artifactType") or document["config"]["mediaType"])
        assert entry.get("annotations") == document.get("annotations")
        read_whole(repository, fixture, digest)
        if fixture.referrers(digest):
            assert read_listed(repository, fixture, digest)
    return {entry["artifactType"] for entry in listed.values()}
