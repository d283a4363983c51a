"""Credentials as Docker keeps them in its config.json."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import CredentialsUnavailable
from mirror.registry.credentials import Credential, DockerConfig
from tests.unit.registry.docker_configs import auth_entry, docker_config, found_login


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
    assert found_login(docker_config(tmp_path, auths={key: auth_entry("user", "pass")})) == ("user", "pass")


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
    config = docker_config(tmp_path, auths={key: auth_entry("user", "pass")})
    assert found_login(config, "docker.io", "library/redis") == ("user", "pass")


def test_the_longest_namespace_wins(tmp_path: Path) -> None:
    config = docker_config(
        tmp_path,
        auths={
            "reg.example": auth_entry("registry", "1"),
            "reg.example/team": auth_entry("team", "2"),
            "reg.example/team/app": auth_entry("app", "3"),
        },
    )
    assert found_login(config, repository="team/app") == ("app", "3")
    assert found_login(config, repository="team/other") == ("team", "2")
    assert found_login(config, repository="teammate/app") == ("registry", "1")
    assert found_login(config, repository="team/app-two") == ("team", "2")


@pytest.mark.parametrize("key", ["reg.example/team", "REG.example:443/team", "reg.example./team/"])
def test_a_namespace_is_part_of_a_key_without_a_scheme(tmp_path: Path, key: str) -> None:
    config = docker_config(
        tmp_path, auths={key: auth_entry("team", "1"), "https://reg.example/v1/": auth_entry("registry", "2")}
    )
    assert found_login(config, repository="team/app") == ("team", "1")
    assert found_login(config, repository="v1/app") == ("registry", "2")


def test_docker_hubs_namespaces_are_found_under_any_of_its_names(tmp_path: Path) -> None:
    config = docker_config(
        tmp_path, auths={"index.docker.io/bitnami": auth_entry("team", "1"), "docker.io": auth_entry("hub", "2")}
    )
    assert found_login(config, "docker.io", "bitnami/redis") == ("team", "1")
    assert found_login(config, "docker.io", "library/redis") == ("hub", "2")


@pytest.mark.parametrize("key", ["harbor:443", "https://harbor", "https://Harbor:443/c/", "harbor"])
def test_a_host_of_one_label_is_found_under_its_port(tmp_path: Path, key: str) -> None:
    config = docker_config(tmp_path, auths={key: auth_entry("user", "pass")})
    assert found_login(config, "harbor:443") == ("user", "pass")
    assert found_login(config, "harbor:80") is None


def test_the_key_of_a_host_of_one_label_may_mean_plain_http(tmp_path: Path) -> None:
    assert found_login(docker_config(tmp_path, auths={"http://harbor/": auth_entry("user", "pass")}), "harbor:80") == (
        "user",
        "pass",
    )


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
    config = docker_config(
        tmp_path, auths={k: auth_entry(base64.b32encode(k.encode()).decode(), "x") for k in keys[::in_order]}
    )
    assert found_login(config) == (base64.b32encode(winner.encode()).decode(), "x")


def test_an_empty_entry_does_not_hide_another_spelling(tmp_path: Path) -> None:
    assert found_login(
        docker_config(tmp_path, auths={"reg.example": {}, "https://reg.example": auth_entry("u", "p")})
    ) == ("u", "p")


@pytest.mark.parametrize(
    "key", ["", "/", "https://", "[::1]:5000", "re g.example", "rég.example", "reg.example:x", "\n"]
)
def test_a_key_that_is_no_registry_is_passed_over(tmp_path: Path, key: str) -> None:
    assert found_login(docker_config(tmp_path, auths={key: {"auth": 7}, "reg.example": auth_entry("u", "p")})) == (
        "u",
        "p",
    )


@pytest.mark.parametrize("registry", ["reg.example.evil", "evil.reg.example", "reg.example:5000", "other.example"])
def test_credentials_are_for_their_registry_alone(tmp_path: Path, registry: str) -> None:
    assert found_login(docker_config(tmp_path, auths={"reg.example": auth_entry("user", "pass")}), registry) is None


def test_a_password_may_have_colons_and_letters_of_any_script(tmp_path: Path) -> None:
    assert found_login(docker_config(tmp_path, auths={"reg.example": auth_entry("user", "a:b:ü")})) == ("user", "a:b:ü")


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
    assert found_login(docker_config(tmp_path, auths={"reg.example": {"auth": stored}})) == (
        "AWS",
        "a long token " * 20,
    )


@given(st.binary(max_size=40).filter(lambda user: b":" not in user), st.binary(max_size=80), st.integers(1, 80))
def test_any_user_and_password_come_back_byte_by_byte(user: bytes, password: bytes, width: int) -> None:
    password = password.strip(b"\0")
    stored = base64.b64encode(user + b":" + password).decode()
    lines = "\r\n".join(stored[i : i + width] for i in range(0, len(stored), width))
    with TemporaryDirectory() as directory:
        credential = docker_config(Path(directory), auths={"reg.example": {"auth": lines}}).credential(
            "reg.example", "a/b"
        )
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
        found_login(docker_config(tmp_path, auths={"https://reg.example": {}, "reg.example/team": {"auth": stored}}))
    assert "dTp" not in str(caught.value)


@pytest.mark.parametrize("field", ["auth", "identitytoken", "registrytoken", "username", "password"])
@pytest.mark.parametrize("value", [7, True, ["secret"], {"a": "secret"}, 1.5])
def test_a_field_that_is_no_string_is_an_error_that_names_it(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(CredentialsUnavailable, match=rf"'{field}' of 'reg\.example'.*not a string") as caught:
        found_login(docker_config(tmp_path, auths={"reg.example": {field: value}}))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("entry", ["user:secret", 7, ["secret"], True])
def test_an_entry_that_is_no_object_is_an_error(tmp_path: Path, entry: object) -> None:
    with pytest.raises(CredentialsUnavailable, match=r"'reg\.example'.*not a JSON object") as caught:
        found_login(docker_config(tmp_path, auths={"reg.example": entry}))
    assert "secret" not in str(caught.value)


def test_a_damaged_entry_harms_no_other_registry(tmp_path: Path) -> None:
    config = docker_config(tmp_path, auths={"bad.example": {"auth": 7}, "reg.example": auth_entry("u", "p")})
    assert found_login(config) == ("u", "p")
    assert found_login(config, "other.example") is None


@pytest.mark.parametrize("field", ["identitytoken", "registrytoken", "password"])
def test_half_a_surrogate_pair_is_an_error(tmp_path: Path, field: str) -> None:
    with pytest.raises(CredentialsUnavailable):
        found_login(
            docker_config(tmp_path, auths={"reg.example": {"username": "u", "password": "p", field: "secret\ud800"}})
        )


@pytest.mark.parametrize("token", ["with blank", "with\r\nline: break", "ümlaut", "x" * 65537])
def test_a_registry_token_that_cannot_stand_in_a_header_is_an_error(tmp_path: Path, token: str) -> None:
    with pytest.raises(CredentialsUnavailable, match="'registrytoken'") as caught:
        found_login(docker_config(tmp_path, auths={"reg.example": {"registrytoken": token}}))
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "kind", "secret"),
    [
        ({"registrytoken": "r", "identitytoken": "i", **auth_entry("u", "p")}, "registry_token", "r"),
        ({"identitytoken": "i", **auth_entry("u", "p")}, "identity_token", "i"),
        ({**auth_entry("u", "p"), "username": "other", "password": "q"}, "password", "p"),
        ({"auth": "", "username": "u", "password": "q"}, "password", "q"),
        ({"auth": None, "registrytoken": None, "username": "u", "password": "q"}, "password", "q"),
    ],
)
def test_of_several_secrets_in_an_entry_docker_s_choice_wins(
    tmp_path: Path, entry: dict[str, Any], kind: str, secret: str
) -> None:
    credential = docker_config(tmp_path, auths={"reg.example": entry}).credential("reg.example", "team/app")
    assert credential is not None
    secrets = {name: getattr(credential, name) for name in ("password", "identity_token", "registry_token")}
    assert {name: value for name, value in secrets.items() if value} == {kind: secret}


def test_user_and_password_may_have_their_own_fields(tmp_path: Path) -> None:
    config = docker_config(tmp_path, auths={"reg.example": {"username": "user", "password": "pass"}})
    assert found_login(config) == ("user", "pass")


@pytest.mark.parametrize("entry", [{"identitytoken": "secret-token"}, auth_entry("<token>", "secret-token")])
def test_an_identity_token_is_distinguished_from_a_password(tmp_path: Path, entry: dict[str, str]) -> None:
    credential = docker_config(tmp_path, auths={"reg.example": entry}).credential("reg.example", "team/app")
    assert credential is not None
    assert (credential.identity_token, credential.password) == ("secret-token", "")


def test_no_secret_is_in_a_repr() -> None:
    assert "secret" not in repr(Credential("user", "secret-password", "secret-token", "secret-registry-token"))


def test_a_login_is_seen_without_a_restart(tmp_path: Path) -> None:
    config = docker_config(tmp_path, auths={})
    assert found_login(config) is None
    docker_config(tmp_path, auths={"reg.example": auth_entry("user", "pass")})
    assert found_login(config) == ("user", "pass")


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
    assert found_login(docker_config(tmp_path, **fields)) is None
