"""Credentials as Docker keeps them, and helper programs that misbehave."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    "key", ["reg.example", "https://reg.example", "http://reg.example/", "https://reg.example/v2/"]
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


@pytest.mark.parametrize("registry", ["reg.example.evil", "evil.reg.example", "reg.example:5000", "other.example"])
def test_credentials_are_for_their_registry_alone(tmp_path: Path, registry: str) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": _auth("user", "pass")}), registry) is None


def test_a_password_may_have_colons_and_letters_of_any_script(tmp_path: Path) -> None:
    assert _found(_config(tmp_path, auths={"reg.example": _auth("user", "a:b:ü")})) == ("user", "a:b:ü")


def test_user_and_password_may_stand_in_fields_of_their_own(tmp_path: Path) -> None:
    config = _config(tmp_path, auths={"reg.example": {"username": "user", "password": "pass"}})
    assert _found(config) == ("user", "pass")


@pytest.mark.parametrize("entry", [{"identitytoken": "secret-token"}, _auth("<token>", "secret-token")])
def test_an_identity_token_is_told_from_a_password(tmp_path: Path, entry: dict[str, str]) -> None:
    credential = _config(tmp_path, auths={"reg.example": entry}).credential("reg.example", "team/app")
    assert credential is not None
    assert (credential.identity_token, credential.password) == ("secret-token", "")


def test_no_secret_is_in_a_repr() -> None:
    assert "secret" not in repr(Credential("user", "secret-password", "secret-token"))


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


def test_a_helper_of_one_registry_is_not_asked_for_another(tmp_path: Path, helper: Helper) -> None:
    helper("vault", f"touch {tmp_path}/asked; exit 1")
    assert _found(_config(tmp_path, credHelpers={"other.example": "vault"})) is None
    assert not (tmp_path / "asked").exists()


def test_the_store_is_asked_for_every_registry(tmp_path: Path, helper: Helper) -> None:
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
    """Its child holds the pipe open: were it left alive, the answer would not end."""
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
