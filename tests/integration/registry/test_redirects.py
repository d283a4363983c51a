"""Redirects: where they may lead, and that they carry no credentials elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.errors import AddressNotAllowed, BlobUnknown, MirrorError, SourceFailed
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.retry import ATTEMPTS
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.fakes.server import HttpServer
from tests.support.images import TestImage


@pytest.fixture
def blob(app: TestImage) -> Descriptor:
    digest, content = max(app.blobs.items(), key=lambda item: len(item[1]))
    return Descriptor("application/octet-stream", digest, len(content))


def _content(client: RegistryClient, reference: Reference, blob: Descriptor, offset: int = 0) -> bytes:
    with client.open_blob(reference, blob, offset=offset) as stream:
        buffer = memoryview(bytearray(blob.size))
        count = stream.readinto(buffer)
        return bytes(buffer[:count])


def _redirecting(registry: FakeRegistry, location: str, status: int = 307) -> None:
    registry.script(faults.faulty(faults.status(status, Location=location), server="api", path="/blobs/"))


@pytest.mark.parametrize("login", ["tokens", "basic"])
def test_a_login_never_follows_to_another_origin(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    app: TestImage,
    blob: Descriptor,
    config: Path,
    login: str,
) -> None:
    """The fake's CDN is another port of the same host. Like S3, it refuses logins."""
    registry.redirect_blobs = True
    if login == "tokens":
        registry.tokens = Tokens(login=LOGIN)
    else:
        registry.basic = LOGIN
    client = client_of(registry, docker_config=config)
    for _ in range(2):
        assert _content(client, reference, blob) == app.blobs[blob.digest]
    assert all("Authorization" not in request.headers for request in registry.log("cdn"))
    assert all(request.query == {"X-Amz-Signature": ["very-secret"]} for request in registry.log("cdn"))


def test_a_range_and_the_identity_encoding_follow(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    assert _content(client_of(registry), reference, blob, offset=1000) == app.blobs[blob.digest][1000:]
    (request,) = registry.log("cdn")
    assert (request.headers["Range"], request.headers["Accept-Encoding"]) == (f"bytes=1000-{blob.size - 1}", "identity")


def test_a_login_stays_on_a_redirect_within_the_registry(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, blob: Descriptor, config: Path
) -> None:
    registry.basic = LOGIN
    registry.put(app, "moved/app")
    away = faults.status(308, Location=f"/v2/moved/app/blobs/{blob.digest}")
    registry.script(faults.faulty(away, path=f"{REPOSITORY}/blobs"))
    assert _content(client_of(registry, docker_config=config), reference, blob) == app.blobs[blob.digest]


def test_a_dropped_login_is_not_added_again_by_a_redirect_back(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, blob: Descriptor, config: Path
) -> None:
    registry.basic = LOGIN
    home = f"{registry.url}/v2/home/app/blobs/{blob.digest}"
    with HttpServer("away", lambda _: Reply(307, {"Location": home})) as away:
        registry.script(_leading_away(f"http://{away.host}/elsewhere"))
        with pytest.raises(SourceFailed, match="redirect"):
            _content(
                client_of(registry, docker_config=config, insecure_registries={registry.host, away.host}),
                reference,
                blob,
            )
    assert all("Authorization" not in request.headers for request in registry.log("api", path="home/app"))
    assert registry.log("api", path="home/app")


def _leading_away(location: str) -> faults.Script:
    def script(request: Request, reply: Reply) -> Reply | None:
        logged_in = reply.status != 401
        return Reply(307, {"Location": location}) if logged_in and REPOSITORY in request.path else None

    return script


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage, blob: Descriptor, status: int
) -> None:
    _redirecting(registry, f"http://{registry.cdn_host}/{REPOSITORY}/{blob.digest}", status)
    assert _content(client, reference, blob) == app.blobs[blob.digest]
    assert registry.log("cdn")[0].method == "GET"


def test_a_manifest_may_be_redirected_too(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, app: TestImage
) -> None:
    registry.put(app, "moved/app", "1")
    registry.script(faults.faulty(faults.status(307, Location="/v2/moved/app/manifests/1"), path=REPOSITORY))
    assert get_manifest(client, reference).digest == app.digest
    assert client.head_manifest(reference) == app.digest


def test_a_redirect_loop_ends(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    _redirecting(registry, f"/v2/{REPOSITORY}/blobs/{blob.digest}")
    with pytest.raises(SourceFailed, match="redirects more than 5 times"):
        client.open_blob(reference, blob)
    assert len(registry.log()) == 6


@pytest.mark.parametrize(
    "location",
    [
        "ftp://files.example/blob",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "javascript:alert(1)",
        "http://[bad/",
        "http://user:password@files.example/blob",
        "https://files.example:99999/blob",
        "https:///blob",
        "https://files.example\\@127.0.0.1/",
        "https://files .example/",
    ],
)
def test_a_redirect_to_no_http_url_is_refused(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor, location: str
) -> None:
    _redirecting(registry, location)
    with pytest.raises(SourceFailed, match="http or https URL"):
        client.open_blob(reference, blob)


def test_a_redirect_to_plain_http_is_refused_unless_permitted(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    _redirecting(registry, "http://files.example/blob")
    with pytest.raises(SourceFailed, match=r"files\.example without TLS"):
        client.open_blob(reference, blob)


def test_an_http_endpoint_permits_its_own_host_and_port_alone(
    client_of: MakeClient, registry: FakeRegistry, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    client = client_of(registry_endpoints={"docker.io": registry.url})
    with pytest.raises(SourceFailed, match="without TLS"):
        client.open_blob(Reference.parse(f"{REPOSITORY}:1"), blob)
    assert not registry.log("cdn")


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[fd00:ec2::254]/",
        "https://0.0.0.0/",
        "https://2852039166/",
    ],
)
def test_a_redirect_into_a_private_network_is_not_followed(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor, location: str
) -> None:
    _redirecting(registry, location)
    with pytest.raises(AddressNotAllowed):
        client.open_blob(reference, blob)


def test_a_redirect_without_a_location_is_a_registry_failure(
    client: RegistryClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    registry.script(faults.faulty(faults.status(307)))
    with pytest.raises(SourceFailed, match="307"):
        client.open_blob(reference, blob)


def test_an_expired_target_is_requested_again_from_the_registry(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    registry.script(faults.faulty(faults.status(403), server="cdn", times=1))
    assert _content(client_of(registry), reference, blob) == app.blobs[blob.digest]
    assert (len(registry.log("api")), len(registry.log("cdn"))) == (2, 2)


def test_a_target_that_always_refuses_is_not_reported_as_unauthorized(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    registry.script(faults.faulty(faults.status(401, WWW_Authenticate='Basic realm="give me"'), server="cdn"))
    with pytest.raises(SourceFailed, match="redirect"):
        client_of(registry).open_blob(reference, blob)
    assert len(registry.log("cdn")) == ATTEMPTS


def test_a_target_that_does_not_have_the_blob_is_a_missing_blob(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    registry.script(faults.faulty(faults.status(404), server="cdn"))
    with pytest.raises(BlobUnknown):
        client_of(registry).open_blob(reference, blob)


def test_no_error_shows_a_presigned_url(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, blob: Descriptor
) -> None:
    registry.redirect_blobs = True
    for change in (faults.status(500), faults.status(418), faults.reset_after(0), faults.header("Content-Length", "1")):
        registry.scripts = [faults.faulty(change, server="cdn")]
        with pytest.raises(MirrorError) as caught:
            _content(client_of(registry), reference, blob)
        assert "very-secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_no_library_logs_a_presigned_url(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    blob: Descriptor,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A header without a name makes urllib3 log a warning with the URL."""
    registry.redirect_blobs = True
    registry.script(faults.faulty(faults.header("", "a header without a name"), server="cdn"))
    with caplog.at_level("INFO"):
        _content(client_of(registry), reference, blob)
    assert "very-secret" not in caplog.text + capsys.readouterr().out
