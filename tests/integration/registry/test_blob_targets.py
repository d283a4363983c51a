"""The target of a blob's redirect is reused, without a login, until it expires."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.errors import SourceError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.blobs import MAX_TARGETS, TARGET_SECONDS, BlobTargets
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Synthetic, Tokens
from tests.support.fakes.server import HttpServer

SIZE = 500_000
PIECE = 100_000
CONTENT = b"".join(Synthetic(SIZE).pieces(0, SIZE))
BLOB = Descriptor("application/octet-stream", Digest.of(CONTENT), SIZE)


@pytest.fixture
def registry(registry: FakeRegistry) -> FakeRegistry:
    """A registry that redirects blob reads to another origin."""
    registry.put_blob(REPOSITORY, BLOB.digest, Synthetic(SIZE))
    registry.redirect_blobs = True
    return registry


def in_ranges(client: RegistryClient, reference: Reference) -> bytes:
    """Read the blob in five ranges."""
    whole = b""
    for offset in range(0, SIZE, PIECE):
        buffer = memoryview(bytearray(PIECE))
        with client.open_blob(reference, BLOB, offset=offset, length=PIECE) as stream:
            assert (stream.start, stream.readinto(buffer)) == (offset, PIECE)
        whole += bytes(buffer)
    return whole


def asked(registry: FakeRegistry) -> tuple[int, int]:
    """Return the number of blob reads at the registry, and at the target."""
    return len(registry.log("api", path="/blobs/")), len(registry.log("cdn"))


def test_many_ranges_need_one_request_to_the_registry(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    assert in_ranges(client, reference) == CONTENT
    assert asked(registry) == (1, 5)
    assert registry.connections["cdn"] == 1


def test_no_login_goes_to_the_target(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path
) -> None:
    """The target would reply 400."""
    registry.tokens = Tokens(login=LOGIN)
    assert in_ranges(client_of(registry, docker_config=config), reference) == CONTENT
    assert all("Authorization" not in request.headers for request in registry.log("cdn"))
    assert asked(registry) == (2, 5)  # the first is asked for a login


@pytest.mark.parametrize("change", [faults.status(403), faults.status(404), faults.status(503), faults.status(302)])
def test_after_a_failure_of_the_target_the_registry_is_asked_again(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, change: faults.Change, waits: list[float]
) -> None:
    with client.open_blob(reference, BLOB, length=1):
        pass
    registry.script(faults.faulty(change, server="cdn", times=1))
    assert in_ranges(client, reference) == CONTENT
    assert asked(registry) == (2, 1 + 1 + 5)
    assert waits == []


def test_after_the_target_became_unreachable_the_registry_is_asked_again(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference
) -> None:
    with HttpServer("away", lambda _: Reply(206, {"Content-Range": f"bytes 0-0/{SIZE}"}, CONTENT[:1])) as away:
        client = client_of(registry, insecure_registries={registry.host, away.host})
        redirect = faults.status(307, Location=f"http://{away.host}/blob")
        registry.script(faults.faulty(redirect, server="api", path="/blobs/", times=1))
        with client.open_blob(reference, BLOB, length=1):
            pass
    assert in_ranges(client, reference) == CONTENT
    assert asked(registry) == (2, 5)


def test_a_target_that_breaks_off_is_not_used_again(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    in_ranges(client, reference)
    registry.script(faults.faulty(faults.reset_after(10), server="cdn", times=1))
    with pytest.raises(SourceError):
        in_ranges(client, reference)
    assert in_ranges(client, reference) == CONTENT
    assert asked(registry)[0] == 2


def test_a_target_that_sends_another_range_is_not_used_again(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    in_ranges(client, reference)
    registry.script(faults.faulty(faults.header("Content-Range", "bytes 0-1/2"), server="cdn", times=1))
    assert in_ranges(client, reference) == CONTENT
    assert asked(registry) == (2, 5 + 1 + 5)


def test_a_target_is_used_for_its_repository_only(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    in_ranges(client, reference)
    registry.put_blob("other/app", BLOB.digest, Synthetic(SIZE))
    in_ranges(client, Reference.parse(f"{registry.host}/other/app:1"))
    assert [request.path.split("/")[1] for request in registry.log("cdn")] == ["team"] * 5 + ["other"] * 5


def test_a_redirect_within_the_registry_is_asked_for_each_time(
    client: RegistryClient, registry: FakeRegistry, reference: Reference
) -> None:
    """Its target needs the login, which is not sent to remembered targets."""
    registry.redirect_blobs = False
    registry.put_blob("moved/app", BLOB.digest, Synthetic(SIZE))
    away = faults.status(307, Location=f"/v2/moved/app/blobs/{BLOB.digest}")
    registry.script(faults.faulty(away, path=f"{REPOSITORY}/blobs"))
    assert in_ranges(client, reference) == CONTENT
    assert len(registry.log("api", path=f"{REPOSITORY}/blobs")) == 5


def test_no_library_logs_the_query_of_a_reused_target(
    client: RegistryClient,
    registry: FakeRegistry,
    reference: Reference,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level("INFO"):
        in_ranges(client, reference)
        registry.script(faults.faulty(faults.header("", "a header without a name"), server="cdn"))
        in_ranges(client, reference)
    assert "very-secret" not in caplog.text + capsys.readouterr().out


def test_a_target_is_forgotten_before_presigned_urls_expire() -> None:
    now = 1000.0
    targets = BlobTargets(clock=lambda: now)
    reference = Reference.parse("registry.example/team/app:1")
    targets.remember(reference, BLOB.digest, "https://cdn.example/?secret")
    now += TARGET_SECONDS - 1
    assert targets.get(reference, BLOB.digest) == "https://cdn.example/?secret"
    now += 1
    assert targets.get(reference, BLOB.digest) is None


def test_the_least_recently_used_targets_go_first() -> None:
    targets, reference = BlobTargets(), Reference.parse("registry.example/team/app:1")
    digests = [Digest.of(str(number).encode()) for number in range(MAX_TARGETS + 1)]
    for digest in digests[:-1]:
        targets.remember(reference, digest, f"https://cdn.example/{digest}")
    assert targets.get(reference, digests[0])
    targets.remember(reference, digests[-1], "https://cdn.example/last")
    assert [targets.get(reference, digest) is None for digest in (digests[0], digests[1], digests[-1])] == [
        False,
        True,
        False,
    ]
