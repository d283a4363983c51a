"""Credentials as Docker keeps them, and credential helpers that misbehave."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import CredentialsUnavailable
from mirror.registry.credentials import Credential, DockerConfig

Helper = Callable[[str, str], None]


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Installs a docker-credential-<name> that is a shell script."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def install(name: str, script: str) -> None:
        program = directory / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return install


def _config(directory: Path, **fields: Any) -> DockerConfig:
    path = directory / "config.json"
    path.write_text(json.dumps(fields))
    return DockerConfig(path)


def _auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def _found(config: DockerConfig, registry: str = "reg.example", repository: str = "team/app") -> tuple[str, str] | None:
    credential = config.credential(registry, repository)
    return (credential.username, credential.password) if credential else None


@pytest.mark.parametrize(
    "key",
    [
        "reg.example",
        "https://reg.example",
        "http://reg.example/",
        "https://reg.example/v2/",
        "https://reg.example/v1/",
        "https://reg.example/some/path/",
        "HTTPS://Reg.Example:443/Path",
        "REG.example",
        "reg.example:443",
        "reg.example.",
        "reg.example/",
        "reg.example//",
        "reg.example/v1/",
        "reg.example/v2",
        " reg.example",
        "https://user@reg.example/",
    ],
)
def test_every_way_to_write_a_registry_is_found(tmp_path: Path, key: str) -> None:
    assert _found(_config(tmp_path, auths={key: _auth("user", "pass")})) == ("user", "pass")


@pytest.mark.parametrize(
    "key",
    [
        "https://index.docker.io/v1/",
        "https://index.docker.io/v1",
        "index.docker.io",
        "docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io/v2/",
        "registry.hub.docker.com",
        "https://registry.hub.docker.com/v1/",
        "https://Index.Docker.io:443/v1/",
        "docker.io/",
    ],
)
def test_docker_hub_is_found_under_its_old_names(tmp_path: Path, key: str) -> None:
    config = _config(tmp_path, auths={key: _auth("user", "pass")})
    assert _found(config, "docker.io", "library/redis") == ("user", "pass")


def test_the_longest_namespace_wins(tmp_path: Path) -> None:
    config = _config(
        tmp_path,
        auths={
            "reg.example": _auth("registry", "1"),
            "reg.example/team": _auth("team", "2"),
            "reg.example/team/app": _auth("app", "3"),
        },
    )
    assert _found(config, repository="team/app") == ("app", "3")
    assert _found(config, repository="team/other") == ("team", "2")
    assert _found(config, repository="teammate/app") == ("registry", "1")
    assert _found(config, repository="team/app-two") == ("team", "2")


@pytest.mark.parametrize("key", ["reg.example/team", "REG.example:443/team", "reg.example./team/"])
def test_a_namespace_is_part_of_a_key_without_a_scheme(tmp_path: Path, key: str) -> None:
    config = _config(tmp_path, auths={key: _auth("team", "1"), "https://reg.example/v1/": _auth("registry", "2")})
    assert _found(config, repository="team/app") == ("team", "1")
    assert _found(config, repository="v1/app") == ("registry", "2")


def test_docker_hubs_namespaces_are_found_under_any_of_its_names(tmp_path: Path) -> None:
    config = _config(tmp_path, auths={"index.docker.io/bitnami": _auth("team", "1"), "docker.io": _auth("hub", "2")})
    assert _found(config, "docker.io", "bitnami/redis") == ("team", "1")
    assert _found(config, "docker.io", "library/redis") == ("hub", "2")


@pytest.mark.parametrize("key", ["harbor:443", "https://harbor", "https://Harbor:443/c/", "harbor"])
def test_a_host_of_one_label_is_found_under_its_port(tmp_path: Path, key: str) -> None:
    config = _config(tmp_path, auths={key: _auth("user", "pass")})
    assert _found(config, "harbor:443") == ("user", "pass")
    assert _found(config, "harbor:80") is None


def test_the_key_of_a_host_of_one_label_may_mean_plain_http(tmp_path: Path) -> None:
    assert _found(_config(tmp_path, auths={"http://harbor/": _auth("user", "pass")}), "harbor:80") == ("user", "pass")


@pytest.mark.parametrize("in_order", [1, -1])
@pytest.mark.parametrize(
    ("keys", "winner"),
    [
        (("https://reg.example", "reg.example"), "reg.example"),
        (("REG.example", "https://reg.example/v2/", "https://reg.example"), "https://reg.example"),
        (("https://reg.example/b/", "https://reg.example/a/"), "https://reg.example/a/"),
    ],
)
def test_of_several_spellings_the_same_one_always_wins(
    tmp_path: Path, keys: tuple[str, ...], winner: str, in_order: int
) -> None:
    config = _config(tmp_path, auths={k: _auth(base64.b32encode(k.encode()).decode(), "x") for k in keys[::in_order]})
    assert _found(config) == (base64.b32encode(winner.encode()).decode(), "x")


def test_an_empty_entry_does_not_hide_another_spelling(tmp_path: Path) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": {}, "https://reg.example": _auth("u", "p")})) == ("u", "p")


@pytest.mark.parametrize(
    "key", ["", "/", "https://", "[::1]:5000", "re g.example", "rég.example", "reg.example:x", "\n"]
)
def test_a_key_that_is_no_registry_is_passed_over(tmp_path: Path, key: str) -> None:
    assert _found(_config(tmp_path, auths={key: {"auth": 7}, "reg.example": _auth("u", "p")})) == ("u", "p")


@pytest.mark.parametrize("registry", ["reg.example.evil", "evil.reg.example", "reg.example:5000", "other.example"])
def test_credentials_are_for_their_registry_alone(tmp_path: Path, registry: str) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": _auth("user", "pass")}), registry) is None


def test_a_password_may_have_colons_and_letters_of_any_script(tmp_path: Path) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": _auth("user", "a:b:ü")})) == ("user", "a:b:ü")


@pytest.mark.parametrize(
    "stored",
    [
        base64.encodebytes(b"AWS:" + b"a long token " * 20).decode(),
        base64.encodebytes(b"AWS:" + b"a long token " * 20).decode().replace("\n", "\r\n"),
        "\n\r" + base64.b64encode(b"AWS:" + b"a long token " * 20).decode() + "\n",
        "\n".join(base64.b64encode(b"AWS:" + b"a long token " * 20).decode()),
        base64.b64encode(b"AWS:" + b"a long token " * 20).decode().rstrip("="),
        base64.b64encode(b"AWS:" + b"a long token " * 20 + b"\0\0\0").decode(),
        base64.b64encode(b"AWS:\0" + b"a long token " * 20).decode(),
    ],
)
def test_auth_is_decoded_as_docker_does(tmp_path: Path, stored: str) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": {"auth": stored}})) == ("AWS", "a long token " * 20)


@given(st.binary(max_size=40).filter(lambda user: b":" not in user), st.binary(max_size=80), st.integers(1, 80))
def test_any_user_and_password_come_back_byte_by_byte(user: bytes, password: bytes, width: int) -> None:
    password = password.strip(b"\0")
    stored = base64.b64encode(user + b":" + password).decode()
    lines = "\r\n".join(stored[i : i + width] for i in range(0, len(stored), width))
    with TemporaryDirectory() as directory:
        credential = _config(Path(directory), auths={"reg.example": {"auth": lines}}).credential("reg.example", "a/b")
    assert credential is not None
    if user != b"<token>":
        assert credential.basic == "Basic " + stored


@pytest.mark.parametrize(
    ("credential", "header"),
    [
        (Credential("u", "ghp_token"), "Bearer ghp_token"),
        (Credential("u", ""), None),
        (Credential("u", "two words"), None),
        (Credential("u", "a\r\nHost: b"), None),
        (Credential("u", "\udcff"), None),
        (Credential("<token>", "", identity_token="t"), None),
        (Credential("<token>", "", registry_token="t"), None),
    ],
)
def test_a_password_is_sent_as_an_access_token_only_if_a_header_can_hold_it(
    credential: Credential, header: str | None
) -> None:
    assert credential.bearer == header


@pytest.mark.parametrize(
    "stored", ["dTpw dTpw", "dTpw=dTpw", "dTpw====", "dTpwd", "dTp-", "dTp\u00e9", "=", "\n", "dTpw\t"]
)
def test_auth_that_go_would_not_decode_is_an_error_that_names_the_entry(tmp_path: Path, stored: str) -> None:
    with pytest.raises(CredentialsUnavailable, match=r"'auth' of 'reg\.example/team'") as caught:
        _found(_config(tmp_path, auths={"https://reg.example": {}, "reg.example/team": {"auth": stored}}))
    assert "dTp" not in str(caught.value)


@pytest.mark.parametrize("field", ["auth", "identitytoken", "registrytoken", "username", "password"])
@pytest.mark.parametrize("value", [7, True, ["secret"], {"a": "secret"}, 1.5])
def test_a_field_that_is_no_string_is_an_error_that_names_it(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(CredentialsUnavailable, match=rf"'{field}' of 'reg\.example'.*not a string") as caught:
        _found(_config(tmp_path, auths={"reg.example": {field: value}}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("entry", ["user:secret", 7, ["secret"], True])
def test_an_entry_that_is_no_object_is_an_error(tmp_path: Path, entry: object) -> None:
    with pytest.raises(CredentialsUnavailable, match=r"'reg\.example'.*not a JSON object") as caught:
        _found(_config(tmp_path, auths={"reg.example": entry}))
    assert "secret" not in str(caught.value)


def test_a_damaged_entry_harms_no_other_registry(tmp_path: Path) -> None:
    config = _config(tmp_path, auths={"bad.example": {"auth": 7}, "reg.example": _auth("u", "p")})
    assert _found(config) == ("u", "p")
    assert _found(config, "other.example") is None


@pytest.mark.parametrize("field", ["identitytoken", "registrytoken", "password"])
def test_half_a_surrogate_pair_is_an_error(tmp_path: Path, field: str) -> None:
    with pytest.raises(CredentialsUnavailable):
        _found(_config(tmp_path, auths={"reg.example": {"username": "u", "password": "p", field: "secret\ud800"}}))


@pytest.mark.parametrize("token", ["with blank", "with\r\nline: break", "ümlaut", "x" * 65537])
def test_a_registry_token_that_cannot_stand_in_a_header_is_an_error(tmp_path: Path, token: str) -> None:
    with pytest.raises(CredentialsUnavailable, match="'registrytoken'") as caught:
        _found(_config(tmp_path, auths={"reg.example": {"registrytoken": token}}))
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "kind", "secret"),
    [
        ({"registrytoken": "r", "identitytoken": "i", **_auth("u", "p")}, "registry_token", "r"),
        ({"identitytoken": "i", **_auth("u", "p")}, "identity_token", "i"),
        ({**_auth("u", "p"), "username": "other", "password": "q"}, "password", "p"),
        ({"auth": "", "username": "u", "password": "q"}, "password", "q"),
        ({"auth": None, "registrytoken": None, "username": "u", "password": "q"}, "password", "q"),
    ],
)
def test_of_several_secrets_in_an_entry_docker_s_choice_wins(
    tmp_path: Path, entry: dict[str, Any], kind: str, secret: str
) -> None:
    credential = _config(tmp_path, auths={"reg.example": entry}).credential("reg.example", "team/app")
    assert credential is not None
    secrets = {name: getattr(credential, name) for name in ("password", "identity_token", "registry_token")}
    assert {name: value for name, value in secrets.items() if value} == {kind: secret}


def test_user_and_password_may_have_their_own_fields(tmp_path: Path) -> None:
    config = _config(tmp_path, auths={"reg.example": {"username": "user", "password": "pass"}})
    assert _found(config) == ("user", "pass")


@pytest.mark.parametrize("entry", [{"identitytoken": "secret-token"}, _auth("<token>", "secret-token")])
def test_an_identity_token_is_distinguished_from_a_password(tmp_path: Path, entry: dict[str, str]) -> None:
    credential = _config(tmp_path, auths={"reg.example": entry}).credential("reg.example", "team/app")
    assert credential is not None
    assert (credential.identity_token, credential.password) == ("secret-token", "")


def test_no_secret_is_in_a_repr() -> None:
    assert "secret" not in repr(Credential("user", "secret-password", "secret-token", "secret-registry-token"))


def test_a_login_is_seen_without_a_restart(tmp_path: Path) -> None:
    config = _config(tmp_path, auths={})
    assert _found(config) is None
    _config(tmp_path, auths={"reg.example": _auth("user", "pass")})
    assert _found(config) == ("user", "pass")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"auths": []}',
        b'{"auths": {"reg.example": {"auth": "not base64!"}}}',
        b'{"auths": {"reg.example": {"auth": "bm8gY29sb24="}}}',
        b'{"auths": {"reg.example": {"auth": "/////w=="}}}',
        b'{"credHelpers": "desktop"}',
        b" " * (1024 * 1024 + 1),
    ],
)
def test_a_malformed_file_is_an_error_and_no_anonymous_pull(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CredentialsUnavailable):
        DockerConfig(path).credential("reg.example", "team/app")


def test_a_file_that_is_gone_is_an_error_and_no_anonymous_pull(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnavailable, match="cannot be read"):
        DockerConfig(tmp_path / "gone.json").credential("reg.example", "team/app")


@pytest.mark.parametrize(
    "fields", [{}, {"auths": None}, {"auths": {"reg.example": {}}}, {"auths": {"reg.example": None}}]
)
def test_a_file_without_an_entry_means_anonymous(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert _found(_config(tmp_path, **fields)) is None


def test_a_helper_is_asked_with_the_registry_on_its_standard_input(tmp_path: Path, helper: Helper) -> None:
    helper("vault", f"""test "$1" = get || exit 3; cat > {tmp_path}/asked; echo '{{"Username": "u", "Secret": "s"}}'""")
    config = _config(tmp_path, credHelpers={"reg.example": "vault"}, auths={"reg.example": _auth("stale", "entry")})
    assert _found(config) == ("u", "s")
    assert (tmp_path / "asked").read_text() == "reg.example"


@pytest.mark.parametrize("key", ["REG.example", "reg.example:443", "https://reg.example/v2/"])
def test_a_helper_is_found_under_every_spelling_and_asked_for_the_one_that_was_configured(
    tmp_path: Path, helper: Helper, key: str
) -> None:
    helper("vault", f"""cat > {tmp_path}/asked; echo '{{"Username": "u", "Secret": "s"}}'""")
    assert _found(_config(tmp_path, credHelpers={"reg.example/team": "none", key: "vault"})) == ("u", "s")
    assert (tmp_path / "asked").read_text() == key


SECRETS = {
    "MIRROR_ADMIN_TOKEN": "secret-1",
    "MIRROR_ADMIN_TOKEN_FILE": "/run/secret-2",
    "MIRROR_REDIS_URL": "redis://:secret-3@redis",
    "MIRROR_REDIS_URL_FILE": "/run/secret-4",
    "AWS_ACCESS_KEY_ID": "secret-5",
    "AWS_SECRET_ACCESS_KEY": "secret-6",
    "AWS_SESSION_TOKEN": "secret-7",
    "AWS_SECURITY_TOKEN": "secret-8",
    "AWS_ACCESS_KEY": "secret-9",
    "AWS_SECRET_KEY": "secret-10",
    "RCLONE_AUTH_KEY": "secret-11,secret-12",
}
NEEDED = {
    "HOME": "/home/mirror",
    "AWS_PROFILE": "pull",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_SHARED_CREDENTIALS_FILE": "/etc/mirror/aws",
    "AWS_CONFIG_FILE": "/etc/mirror/aws-config",
    "AWS_ROLE_ARN": "arn:aws:iam::1:role/pull",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/pod-token",
    "GOOGLE_APPLICATION_CREDENTIALS": "/etc/mirror/google.json",
    "AZURE_CLIENT_ID": "client",
    "HTTPS_PROXY": "http://proxy",
}


def test_a_helpers_environment_has_nothing_of_ours_that_is_secret(
    tmp_path: Path, helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, **NEEDED}.items():
        monkeypatch.setenv(name, value)
    helper("vault", f"""env > {tmp_path}/env; echo '{{"Username": "u", "Secret": "s"}}'""")
    assert _found(_config(tmp_path, credHelpers={"reg.example": "vault"})) == ("u", "s")
    seen = (tmp_path / "env").read_text()
    assert "secret-" not in seen
    assert not any(line.startswith(tuple(f"{name}=" for name in SECRETS)) for line in seen.splitlines())
    assert all(f"{name}={value}" in seen.splitlines() for name, value in NEEDED.items())


def test_a_helper_of_one_registry_is_not_asked_for_another(tmp_path: Path, helper: Helper) -> None:
    helper("vault", f"touch {tmp_path}/asked; exit 1")
    assert _found(_config(tmp_path, credHelpers={"other.example": "vault"})) is None
    assert not (tmp_path / "asked").exists()


def test_the_credential_store_is_asked_for_every_registry(tmp_path: Path, helper: Helper) -> None:
    helper("store", """echo '{"Username": "u", "Secret": "s"}'""")
    assert _found(_config(tmp_path, credsStore="store", auths={"reg.example": {}})) == ("u", "s")


def test_a_helper_may_answer_with_an_identity_token(tmp_path: Path, helper: Helper) -> None:
    helper("acr", """echo '{"Username": "<token>", "Secret": "identity"}'""")
    credential = _config(tmp_path, credHelpers={"reg.example": "acr"}).credential("reg.example", "team/app")
    assert credential is not None
    assert credential.identity_token == "identity"


def test_a_helper_that_has_nothing_means_anonymous(tmp_path: Path, helper: Helper) -> None:
    helper("store", "echo 'credentials not found in native keychain'; exit 1")
    assert _found(_config(tmp_path, credsStore="store")) is None


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo 'a secret message'; exit 1",
        "echo not json",
        "echo '[]'",
        "echo '{}'",
        """echo '{"Username": 7, "Secret": []}'""",
        r"""echo '{"Username": "u", "Secret": "secret\\ud800"}'""",
        "kill -9 $$",
        "yes",
        "head -c 100000 /dev/zero; sleep 100",
    ],
)
def test_a_helper_that_fails_is_an_error_that_shows_nothing_it_said(
    tmp_path: Path, helper: Helper, script: str
) -> None:
    helper("broken", script)
    with pytest.raises(CredentialsUnavailable) as caught:
        _found(_config(tmp_path, credHelpers={"reg.example": "broken"}))
    assert "secret" not in str(caught.value)


def test_a_helper_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path, helper: Helper) -> None:
    """Its child holds the pipe open. If it survived, the output would never end."""
    helper("slow", "sleep 1000 & wait")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"credHelpers": {"reg.example": "slow"}}))
    with pytest.raises(CredentialsUnavailable, match="did not end"):
        DockerConfig(path, helper_seconds=0.2).credential("reg.example", "team/app")


@pytest.mark.parametrize("name", ["../evil", "a b", "a;touch x", "A", "/bin/sh", "$(id)", "a\n"])
def test_a_helper_with_an_odd_name_is_never_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(CredentialsUnavailable, match="malformed"):
        _found(_config(tmp_path, credHelpers={"reg.example": name}))


def test_a_helper_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnavailable, match="not installed"):
        _found(_config(tmp_path, credHelpers={"reg.example": "nowhere-to-be-found"}))
