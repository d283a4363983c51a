"""Registries that ask for no login and hide images, and what a login costs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mirror.errors import (
    BlobUnknown,
    CredentialsUnavailable,
    Denied,
    ManifestUnknown,
    RateLimited,
    RealmNotAllowed,
    SourceFailed,
    Unauthorized,
)
from mirror.oci.descriptor import Descriptor
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.registry.retry import ATTEMPTS
from tests.integration.registry.conftest import LOGIN, REPOSITORY, MakeClient, docker_config, get_manifest
from tests.support.fakes import faults
from tests.support.fakes.docker_hub import basic
from tests.support.fakes.registry import FakeRegistry, Reply, Request, Tokens
from tests.support.images import TestImage

ROOT = "/v2/"


def _hides(status: int, **headers: str) -> faults.Script:
    """Reply *status* to anonymous clients, and a challenge only at /v2/."""

    def script(request: Request, reply: Reply) -> Reply | None:
        return Reply(status, dict(headers)) if reply.status == 401 and request.path != ROOT else None

    return script


def _asked(registry: FakeRegistry, *, path: str = "") -> list[tuple[str, str]]:
    """Return the method and the kind of login of every request to the API."""
    return [(r.method, r.headers.get("Authorization", "-").split(" ")[0]) for r in registry.log("api", path=path)]


@pytest.fixture
def blob(app: TestImage) -> Descriptor:
    digest, content = max(app.blobs.items(), key=lambda item: len(item[1]))
    return Descriptor("application/octet-stream", digest, len(content))


@pytest.fixture(params=["basic", "tokens"])
def hiding(request: pytest.FixtureRequest, registry: FakeRegistry) -> FakeRegistry:
    """A registry with a login of either kind."""
    if request.param == "basic":
        registry.basic = LOGIN
    else:
        registry.tokens = Tokens(login=LOGIN)
    return registry


def _read_manifest(client: RegistryClient, reference: Reference, _: Descriptor) -> object:
    return get_manifest(client, reference)


def _head_manifest(client: RegistryClient, reference: Reference, _: Descriptor) -> object:
    return client.head_manifest(reference)


def _read_blob(client: RegistryClient, reference: Reference, blob: Descriptor) -> object:
    with client.open_blob(reference, blob) as stream:
        return stream.readinto(memoryview(bytearray(10)))


@pytest.mark.parametrize("read", [_read_manifest, _head_manifest, _read_blob])
@pytest.mark.parametrize("status", [403, 404])
def test_an_image_that_is_hidden_from_anonymous_clients_is_read(
    client_of: MakeClient,
    hiding: FakeRegistry,
    reference: Reference,
    config: Path,
    blob: Descriptor,
    status: int,
    read: Callable[[RegistryClient, Reference, Descriptor], object],
) -> None:
    hiding.script(_hides(status))
    client = client_of(hiding, docker_config=config)
    assert read(client, reference, blob)
    asked = _asked(hiding)
    kind = "Basic" if hiding.basic else "Bearer"
    method = asked[0][0]
    assert asked == [(method, "-"), ("GET", "-"), (method, kind)]
    assert read(client, reference, blob)
    assert _asked(hiding)[3:] == [(method, kind)]


def test_the_root_is_asked_once_for_all_repositories_and_threads(
    client_of: MakeClient, hiding: FakeRegistry, app: TestImage, config: Path
) -> None:
    hiding.script(_hides(404))
    references = [Reference.parse(f"{hiding.host}/team/app-{n}:1") for n in range(4)]
    for reference in references:
        hiding.put(app, reference.repository, "1")
    client = client_of(hiding, docker_config=config)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(get_manifest, client), references * 4))
    assert len([request for request in hiding.log("api") if request.path == ROOT]) == 1


def test_without_credentials_a_404_is_a_404(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path
) -> None:
    registry.basic = LOGIN
    registry.script(_hides(404))
    others = docker_config(tmp_path, "other.example", {"username": "u", "password": "p"})
    for client in (client_of(registry), client_of(registry, docker_config=others)):
        with pytest.raises(ManifestUnknown):
            get_manifest(client, reference)
    assert _asked(registry) == [("GET", "-")] * 2


def test_if_the_root_asks_for_no_login_the_first_response_is_final(
    client_of: MakeClient, registry: FakeRegistry, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("mirror.registry.auth.monotonic", lambda: now[0])
    client = client_of(registry, docker_config=config)

    def roots() -> int:
        return len([request for request in registry.log("api") if request.path == ROOT])

    for repository in (REPOSITORY, "team/other"):
        for _ in range(2):
            with pytest.raises(ManifestUnknown):
                get_manifest(client, Reference.parse(f"{registry.host}/{repository}:absent"))
    assert roots() == 1
    now[0] += 601
    with pytest.raises(ManifestUnknown):
        get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}:absent"))
    assert roots() == 2
    assert all(login == "-" for _, login in _asked(registry))


@pytest.mark.parametrize(
    "root",
    [
        faults.status(404),
        faults.status(403),
        faults.status(401, WWW_Authenticate="Negotiate"),
        faults.status(302, Location="/login"),
        faults.status(302, Location="http://elsewhere.example/login"),
        faults.status(307, Location="/v2/"),
    ],
)
def test_with_an_odd_root_the_first_response_is_final(
    client_of: MakeClient, registry: FakeRegistry, config: Path, root: faults.Change
) -> None:
    registry.script(lambda request, reply: root(reply) if request.path == ROOT else None)
    client = client_of(registry, docker_config=config)
    with pytest.raises(ManifestUnknown):
        get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}:absent"))
    registry.script(faults.faulty(faults.status(403), path="/manifests/"))
    with pytest.raises(Denied):
        get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}:1"))


def test_a_failing_root_is_not_remembered(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path
) -> None:
    """The image may exist for logged-in clients, so its 404 is not final."""
    registry.basic = LOGIN
    registry.script(_hides(404))
    troubled = [faults.status(429, Retry_After="90"), faults.status(502)]
    registry.script(lambda request, reply: troubled[0](reply) if request.path == ROOT and troubled else None)
    client = client_of(registry, docker_config=config)
    with pytest.raises(RateLimited):
        get_manifest(client, reference)
    troubled.pop(0)
    with pytest.raises(SourceFailed, match="/v2/ answered 502"):
        get_manifest(client, reference)
    assert len([request for request in registry.log("api") if request.path == ROOT]) == 1 + ATTEMPTS
    troubled.clear()
    get_manifest(client, reference)


def test_an_image_that_is_missing_after_login_is_unknown(
    client_of: MakeClient, hiding: FakeRegistry, reference: Reference, config: Path, app: TestImage
) -> None:
    hiding.script(_hides(404))
    client = client_of(hiding, docker_config=config)
    absent = Descriptor("application/octet-stream", app.digest, 1)
    with pytest.raises(ManifestUnknown):
        get_manifest(client, Reference.parse(f"{hiding.host}/{REPOSITORY}:absent"))
    with pytest.raises(BlobUnknown):
        client.open_blob(reference, absent)
    assert len(hiding.log("api")) == 4


def test_a_refused_login_is_reported_and_public_images_stay_readable(
    client_of: MakeClient, registry: FakeRegistry, config: Path
) -> None:
    """The registry serves this image to anonymous clients, and hides missing ones."""
    registry.basic = ("gordon", "another password")

    def public(request: Request, reply: Reply) -> Reply | None:
        if reply.status != 401 or "Authorization" in request.headers or request.path == ROOT:
            return None
        return registry._manifest(REPOSITORY, "1") if request.path.endswith("/1") else Reply(404)

    registry.script(public)
    client = client_of(registry, docker_config=config)
    for _ in range(2):
        with pytest.raises(Unauthorized, match="refuses our credentials"):
            get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}:absent"))
        get_manifest(client, Reference.parse(f"{registry.host}/{REPOSITORY}:1"))
    once = [("GET", "-"), ("GET", "Basic"), ("GET", "-")]
    assert _asked(registry) == [*once[:1], ("GET", "-"), *once[1:], *once]


@pytest.mark.parametrize("realm", ["https://evil.example/token", "http://evil.example/token"])
def test_a_hidden_challenge_gets_credentials_for_its_own_realm_only(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path, realm: str
) -> None:
    registry.tokens = Tokens(login=LOGIN, realm=realm)
    registry.script(_hides(404))
    with pytest.raises(RealmNotAllowed):
        get_manifest(client_of(registry, docker_config=config), reference)
    assert all(login == "-" for _, login in _asked(registry))


def test_a_404_of_a_redirect_target_is_not_answered_with_a_login(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, blob: Descriptor, config: Path
) -> None:
    registry.redirect_blobs = True
    registry.script(faults.faulty(faults.status(404), server="cdn"))
    with pytest.raises(BlobUnknown):
        client_of(registry, docker_config=config).open_blob(reference, blob)
    assert len(registry.log("api")) == 1


def test_unavailable_credentials_are_reported(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path
) -> None:
    registry.basic = LOGIN
    registry.script(_hides(404))
    path = docker_config(tmp_path, registry.host, {"auth": "no base64!"})
    with pytest.raises(CredentialsUnavailable, match="'auth'"):
        get_manifest(client_of(registry, docker_config=path), reference)


@pytest.mark.parametrize("lines", [{}, {"WWW-Authenticate": ""}, {"WWW-Authenticate": "Negotiate"}, {"X": "nothing"}])
def test_after_a_401_without_a_usable_challenge_the_root_is_asked_for_one(
    client_of: MakeClient, hiding: FakeRegistry, reference: Reference, config: Path, lines: dict[str, str]
) -> None:
    hiding.script(
        lambda request, reply: Reply(401, dict(lines)) if reply.status == 401 and request.path != ROOT else None
    )
    client = client_of(hiding, docker_config=config)
    get_manifest(client, reference)
    get_manifest(client, reference)
    kind = "Basic" if hiding.basic else "Bearer"
    assert _asked(hiding) == [("GET", "-"), ("GET", "-"), ("GET", kind), ("GET", kind)]


@pytest.mark.parametrize("root", [200, 401, 404])
def test_a_401_without_any_scheme_is_answered_with_basic(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, config: Path, root: int
) -> None:
    registry.basic = LOGIN
    registry.script(
        lambda request, reply: Reply(root if request.path == ROOT else 401) if reply.status == 401 else None
    )
    assert get_manifest(client_of(registry, docker_config=config), reference).body == app.body
    assert registry.log("api")[-1].headers["Authorization"] == basic(LOGIN)


@pytest.mark.parametrize("entry", [None, {"identitytoken": "no password"}])
def test_a_401_without_any_scheme_fails_without_a_password(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    tmp_path: Path,
    entry: dict[str, str] | None,
) -> None:
    registry.script(faults.faulty(faults.status(401)))
    config = docker_config(tmp_path, registry.host, entry) if entry else None
    with pytest.raises(SourceFailed, match="scheme"):
        get_manifest(client_of(registry, docker_config=config), reference)
    assert len(registry.log("api")) == (2 if entry else 1)


@pytest.mark.parametrize(
    "lines",
    [
        {"WWW-Authenticate": 'Negotiate, Basic realm="x"'},
        {"WWW-Authenticate": "Negotiate", "www-authenticate": 'Basic realm="x"'},
        {"WWW-Authenticate": 'Digest realm="never closed', "www-authenticate": 'bAsIc rEALM="x"'},
        {"WWW-Authenticate": 'Basic realm="x", Negotiate a87421000492aa874209af8bc028=='},
        {"WWW-Authenticate": 'Bearer service="no realm", Basic realm="x"'},
    ],
)
def test_the_known_scheme_is_found_among_others(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, config: Path, lines: dict[str, str]
) -> None:
    registry.basic = LOGIN
    registry.script(lambda _, reply: Reply(401, dict(lines)) if reply.status == 401 else None)
    get_manifest(client_of(registry, docker_config=config), reference)
    assert _asked(registry) == [("GET", "-"), ("GET", "Basic")]


@pytest.mark.parametrize("bearer_first", [True, False])
@pytest.mark.parametrize("in_one_line", [True, False])
def test_bearer_is_preferred_to_basic_in_any_order(
    client_of: MakeClient,
    registry: FakeRegistry,
    reference: Reference,
    config: Path,
    *,
    bearer_first: bool,
    in_one_line: bool,
) -> None:
    registry.tokens = Tokens(login=LOGIN)
    offers = [f'BEARER Realm="{registry.token_url}",SERVICE=x', 'Basic realm="x"'][:: 1 if bearer_first else -1]
    names = ("WWW-Authenticate", "www-authenticate")
    lines = {names[0]: ", ".join(offers)} if in_one_line else dict(zip(names, offers, strict=True))
    registry.script(lambda _, reply: Reply(401, dict(lines)) if reply.status == 401 else None)
    get_manifest(client_of(registry, docker_config=config), reference)
    assert _asked(registry) == [("GET", "-"), ("GET", "Bearer")]


@pytest.mark.parametrize("challenge", ['Bearer realm="https://evil.example/token"', 'Basic realm="x"', "Negotiate", ""])
def test_a_registry_token_is_sent_as_bearer_and_no_token_server_is_asked(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path, challenge: str
) -> None:
    config = docker_config(tmp_path, registry.host, {"registrytoken": "T.oken", "auth": "dTpw"})

    def wants_the_token(request: Request, _: Reply) -> Reply | None:
        if request.headers.get("Authorization") == "Bearer T.oken":
            return None
        return Reply(401, {"WWW-Authenticate": challenge})

    registry.script(wants_the_token)
    client = client_of(registry, docker_config=config)
    get_manifest(client, reference)
    get_manifest(client, reference)
    assert _asked(registry) == [("GET", "-"), ("GET", "Bearer"), ("GET", "Bearer")]


def test_a_registry_token_is_for_the_repositories_it_is_configured_for(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, app: TestImage, tmp_path: Path
) -> None:
    registry.put(app, "other/app", "1")
    registry.tokens = Tokens()
    registry.tokens.issued["T"] = f"repository:{REPOSITORY}:pull"
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {f"{registry.host}/team": {"registrytoken": "T"}}}))
    client = client_of(registry, docker_config=path)
    for _ in range(2):
        get_manifest(client, reference)
        get_manifest(client, Reference.parse(f"{registry.host}/other/app:1"))
    assert [request.query["scope"] for request in registry.log("token")] == [["repository:other/app:pull"]]


def test_a_refused_registry_token_is_not_sent_again(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path
) -> None:
    registry.basic = LOGIN
    config = docker_config(tmp_path, registry.host, {"registrytoken": "expired-token"})
    with pytest.raises(Unauthorized, match="refuses our credentials") as caught:
        get_manifest(client_of(registry, docker_config=config), reference)
    assert "expired-token" not in str(caught.value)
    assert len(registry.log("api")) == 2


@pytest.mark.parametrize("secret", ["pässword".encode("latin-1"), b"\xff\xfe\x80", "pässword".encode(), b"a:b\x01"])
def test_a_password_reaches_the_registry_byte_by_byte(
    client_of: MakeClient, registry: FakeRegistry, reference: Reference, tmp_path: Path, secret: bytes
) -> None:
    stored = base64.encodebytes(b"us\xe9r:" + secret).decode()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.host: {"auth": stored}}}))
    expected = "Basic " + base64.b64encode(b"us\xe9r:" + secret).decode()

    def wants_it(request: Request, _: Reply) -> Reply | None:
        return (
            None
            if request.headers.get("Authorization") == expected
            else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
        )

    registry.script(wants_it)
    get_manifest(client_of(registry, docker_config=path), reference)
    assert len(registry.log("api")) == 2
