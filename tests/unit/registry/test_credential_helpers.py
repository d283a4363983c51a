"""Credential helpers of Docker: what they are passed, and how they misbehave."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.errors import CredentialsUnavailable
from mirror.registry.credentials import DockerConfig
from tests.unit.registry.docker_configs import auth_entry, docker_config, found_login

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


def test_a_helper_is_asked_with_the_registry_on_its_standard_input(tmp_path: Path, helper: Helper) -> None:
    helper("vault", f"""test "$1" = get || exit 3; cat > {tmp_path}/asked; echo '{{"Username": "u", "Secret": "s"}}'""")
    config = docker_config(
        tmp_path, credHelpers={"reg.example": "vault"}, auths={"reg.example": auth_entry("stale", "entry")}
    )
    assert found_login(config) == ("u", "s")
    assert (tmp_path / "asked").read_text() == "reg.example"


@pytest.mark.parametrize("key", ["REG.example", "reg.example:443", "https://reg.example/v2/"])
def test_a_helper_is_found_under_every_spelling_and_asked_for_the_one_that_was_configured(
    tmp_path: Path, helper: Helper, key: str
) -> None:
    helper("vault", f"""cat > {tmp_path}/asked; echo '{{"Username": "u", "Secret": "s"}}'""")
    assert found_login(docker_config(tmp_path, credHelpers={"reg.example/team": "none", key: "vault"})) == ("u", "s")
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
    assert found_login(docker_config(tmp_path, credHelpers={"reg.example": "vault"})) == ("u", "s")
    seen = (tmp_path / "env").read_text()
    assert "secret-" not in seen
    assert not any(line.startswith(tuple(f"{name}=" for name in SECRETS)) for line in seen.splitlines())
    assert all(f"{name}={value}" in seen.splitlines() for name, value in NEEDED.items())


def test_a_helper_of_one_registry_is_not_asked_for_another(tmp_path: Path, helper: Helper) -> None:
    helper("vault", f"touch {tmp_path}/asked; exit 1")
    assert found_login(docker_config(tmp_path, credHelpers={"other.example": "vault"})) is None
    assert not (tmp_path / "asked").exists()


def test_the_credential_store_is_asked_for_every_registry(tmp_path: Path, helper: Helper) -> None:
    helper("store", """echo '{"Username": "u", "Secret": "s"}'""")
    assert found_login(docker_config(tmp_path, credsStore="store", auths={"reg.example": {}})) == ("u", "s")


def test_a_helper_may_answer_with_an_identity_token(tmp_path: Path, helper: Helper) -> None:
    helper("acr", """echo '{"Username": "<token>", "Secret": "identity"}'""")
    credential = docker_config(tmp_path, credHelpers={"reg.example": "acr"}).credential("reg.example", "team/app")
    assert credential is not None
    assert credential.identity_token == "identity"


def test_a_helper_that_has_nothing_means_anonymous(tmp_path: Path, helper: Helper) -> None:
    helper("store", "echo 'credentials not found in native keychain'; exit 1")
    assert found_login(docker_config(tmp_path, credsStore="store")) is None


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
        found_login(docker_config(tmp_path, credHelpers={"reg.example": "broken"}))
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
        found_login(docker_config(tmp_path, credHelpers={"reg.example": name}))


def test_a_helper_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CredentialsUnavailable, match="not installed"):
        found_login(docker_config(tmp_path, credHelpers={"reg.example": "nowhere-to-be-found"}))
