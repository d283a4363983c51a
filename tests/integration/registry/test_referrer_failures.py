"""Lists of referrers that fail: damaged, cut off, or refused. None of them reads as "it has no signature"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.errors import (
    AnswerTooLarge,
    AnswerTruncated,
    Denied,
    ListingTooLarge,
    ManifestInvalid,
    MirrorError,
    RateLimited,
    SizeInvalid,
    SourceFailed,
    SourceUnreachable,
    Unauthorized,
)
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from tests.integration.registry.conftest import MakeClient
from tests.integration.registry.scripted_referrers import (
    FOR_THIS_SUBJECT,
    HINT,
    NO_API,
    asked,
    entry,
    failure,
    listed,
    serve,
)
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry


@pytest.mark.parametrize(
    ("change", "kind", "requests"),
    [
        (faults.status(500), SourceFailed, 4),
        (faults.status(503), SourceFailed, 4),
        (faults.status(503, Retry_After="60"), RateLimited, 1),
        (faults.status(429), RateLimited, 1),
        (faults.status(429, Retry_After="60"), RateLimited, 1),
        (faults.status(403), Denied, 1),
        (faults.status(204), SourceFailed, 1),
        (faults.status(410), SourceFailed, 1),
        (faults.status(418), SourceFailed, 1),
        (faults.hung_up(), SourceUnreachable, 4),
        (faults.cut_after(10), AnswerTruncated, 4),
        (faults.reset_after(10), MirrorError, 4),
    ],
)
def test_a_failure_is_no_empty_list(
    client: RegistryClient,
    registry: FakeRegistry,
    subject: Reference,
    change: faults.Change,
    kind: type[MirrorError],
    requests: int,
) -> None:
    registry.script(faults.faulty(change))
    error = failure(client, subject)
    assert isinstance(error, kind)
    assert asked(registry) == requests
    assert (HINT in error.hint) is not isinstance(error, RateLimited | SourceUnreachable)
    registry.scripts.clear()
    assert client.referrers(subject) == ()


def test_a_failure_that_passes_is_not_noticed(
    client: RegistryClient, registry: FakeRegistry, subject: Reference
) -> None:
    registry.script(faults.faulty(faults.cut_after(10), times=2))
    assert client.referrers(subject) == ()


@pytest.mark.parametrize("logged_in", [False, True])
def test_a_list_that_needs_another_login_is_no_empty_list(
    client_of: MakeClient, registry: FakeRegistry, subject: Reference, config: Path, *, logged_in: bool
) -> None:
    registry.basic = ("admin", "another")
    error = failure(client_of(registry, docker_config=config if logged_in else None), subject)
    assert isinstance(error, Unauthorized)
    assert "MIRROR_DOCKER_CONFIG" in error.hint
    assert error.hint.endswith("signatures and other referrers.")


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", SourceFailed, "is not JSON"),
        (b"404 page not found", SourceFailed, "is not JSON"),
        (listed(entry())[:-2], SourceFailed, "is not JSON"),
        (listed(entry()) + b"x", SourceFailed, "is not JSON"),
        (b'{"manifests": [' + b"[" * 100_000, SourceFailed, "is not JSON"),
        (b"{}", SourceFailed, "no field 'manifests'"),
        (b'{"errors": [{"code": "UNSUPPORTED"}]}', SourceFailed, "no field 'manifests'"),
        (b'{"manifests": {}}', SourceFailed, "is not a list"),
        (b"[]", SourceFailed, "no field 'manifests'"),
        (b'{"manifests": [], "manifests": []}', SourceFailed, "a field twice"),
        (b'{"manifests": [' + b"[]," * 600_000 + b"[]]}", SourceFailed, "more than 500000 values"),
        (listed(entry(), "sha256:0"), ManifestInvalid, "manifests[1] is not a descriptor"),
        (listed(entry(), entry(1, digest="sha256:0")), ManifestInvalid, "manifests[1] has a malformed"),
        (listed(entry(mediaType=None)), ManifestInvalid, "no mediaType"),
        (listed(entry(size=2**50)), SizeInvalid, "should have 0 to"),
        (listed(*map(entry, range(1001))), ListingTooLarge, "more than 1000 entries"),
        (listed(entry(annotations={"a": "x" * 2**22})), AnswerTooLarge, "more than 4194304 bytes"),
    ],
)
def test_a_damaged_list_is_no_empty_list(
    client: RegistryClient,
    registry: FakeRegistry,
    subject: Reference,
    body: bytes,
    kind: type[MirrorError],
    reason: str,
) -> None:
    serve(registry, body)
    error = failure(client, subject)
    assert isinstance(error, kind)
    assert reason in error.message
    assert HINT in error.hint
    assert asked(registry) == 1


def test_a_list_of_1000_entries_is_read(client: RegistryClient, registry: FakeRegistry, subject: Reference) -> None:
    serve(registry, listed(*map(entry, range(1000))))
    assert len(client.referrers(subject) or ()) == 1000


def test_the_bytes_of_all_pages_are_bounded(client: RegistryClient, registry: FakeRegistry, subject: Reference) -> None:
    pages = [listed(entry(n, annotations={"a": "x" * 3_000_000})) for n in range(4)]
    serve(registry, *pages, link=lambda number: f"</v2/x?page={number}>; rel=next")
    error = failure(client, subject)
    assert isinstance(error, ListingTooLarge)
    assert "more than 8388608 bytes" in error.message
    assert asked(registry) == 3


@pytest.mark.parametrize("change", [*NO_API.values(), *FOR_THIS_SUBJECT.values(), faults.status(500)])
def test_a_list_that_ends_after_its_first_page_is_cut_off(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, change: faults.Change
) -> None:
    serve(registry, listed(entry()), link=lambda _: "</v2/x?page=2>; rel=next")
    later = faults.faulty(change)
    registry.script(lambda request, reply: later(request, reply) if "page" in request.query else None)
    error = failure(client, subject)
    assert isinstance(error, SourceFailed)
    assert HINT in error.hint


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (lambda _: "<https://evil.example/v2/x?p=1>; rel=next", "another origin"),
        (lambda _: "</v2/x>; rel=next", "names no page"),
        (lambda _: "/v2/x?p=1; rel=next", "cannot be understood"),
        (lambda number: f"</v2/x?p={number}>; rel=next", "the same page"),
        (lambda number: f"</v2/x?p={number % 2}>; rel=next", "lead in a circle"),
    ],
)
def test_pages_that_lead_astray_fail_the_list(
    client: RegistryClient, registry: FakeRegistry, subject: Reference, link: Callable[[int], str], reason: str
) -> None:
    bodies = [listed(entry())] * 5 if "same" in reason else [listed(entry(n)) for n in range(5)]
    serve(registry, *bodies, link=link)
    error = failure(client, subject)
    assert isinstance(error, SourceFailed)
    assert reason in error.message
