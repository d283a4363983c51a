"""The files and scripts of ``/v1/client-config``, as texts. tests/e2e/test_client_config.py uses them on nodes."""

from __future__ import annotations

import json
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import FallbackUnavoidable
from service.api.client_config.clients import CLIENTS, Mirror, Wanted, client_document
from service.api.client_config.script import LOGIN, NodeFile

OPEN = Mirror("https://mirror.corp", "mirror.corp", needs_login=False, has_pull_token=True)
CLOSED = replace(OPEN, needs_login=True)
BOTH = Wanted(("docker.io", "harbor.corp:5000"))


def document(client: str, mirror: Mirror, wanted: Wanted = BOTH) -> dict[str, Any]:
    return client_document(client, mirror, wanted)


def files(client: str, mirror: Mirror, wanted: Wanted = BOTH) -> dict[str, str]:
    return {file["path"]: file["content"] for file in document(client, mirror, wanted)["files"]}


def parsed(path: str, text: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    return read


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mirror", [OPEN, CLOSED], ids=["open", "closed"])
def test_every_file_can_be_parsed_and_secrets_are_readable_by_root_only(client: str, mirror: Mirror) -> None:
    answer = document(client, mirror)
    for file in answer["files"]:
        assert parsed(file["path"], file["content"])
        assert file["mode"] == ("0600" if LOGIN in file["content"] else "0644")
        assert file["install"] in answer["script"]
    assert bool(answer["placeholders"]) == any(LOGIN in file["content"] for file in answer["files"])
    assert ("MIRROR_PULL_TOKEN" in answer["script"]) == mirror.needs_login


def test_containerd_has_a_plain_file_for_each_registry() -> None:
    assert files("containerd", replace(OPEN, insecure_registries=frozenset({"harbor.corp:5000"}))) == {
        "/etc/containerd/certs.d/docker.io/hosts.toml": 'server = "https://registry-1.docker.io"\n\n'
        '[host."https://mirror.corp"]\n  capabilities = ["pull", "resolve"]\n',
        "/etc/containerd/certs.d/harbor.corp:5000/hosts.toml": 'server = "http://harbor.corp:5000"\n\n'
        '[host."https://mirror.corp"]\n  capabilities = ["pull", "resolve"]\n',
    }


def test_containerd_sends_the_login_to_the_mirror_and_not_to_the_original_registry() -> None:
    for path, text in files("containerd", CLOSED).items():
        file = tomllib.loads(text)
        login = {"authorization": f"Basic {LOGIN}"}
        if path == "/etc/containerd/certs.d/mirror.corp/hosts.toml":
            assert (file["server"], file["header"]) == ("https://mirror.corp", login)
        else:
            assert file["host"]["https://mirror.corp"]["header"] == login
            assert "header" not in file


def test_the_repository_of_a_registry_with_a_port_has_an_underscore_for_podman() -> None:
    [text] = files("podman", OPEN).values()
    assert [table["mirror"] for table in tomllib.loads(text)["registry"]] == [
        [{"location": "mirror.corp/docker.io"}],
        [{"location": "mirror.corp/harbor.corp_5000"}],
    ]


def test_podman_without_fallback_replaces_the_registry() -> None:
    [text] = files("podman", OPEN, Wanted(("quay.io",), fallback=False)).values()
    assert tomllib.loads(text) == {"registry": [{"prefix": "quay.io", "location": "mirror.corp/quay.io"}]}


def test_dockerd_uses_a_mirror_only_if_it_needs_no_login_and_holds_images_of_docker_hub() -> None:
    assert json.loads(files("docker", OPEN)["/etc/docker/daemon.json"]) == {"registry-mirrors": ["https://mirror.corp"]}
    assert files("docker", CLOSED) == {}
    assert files("docker", OPEN, Wanted(("quay.io",))) == {}
    answer = document("docker", OPEN, Wanted(("quay.io",)))
    assert answer["registries"] == ()
    assert "uses no mirror" in answer["when_the_mirror_is_away"]
    with pytest.raises(FallbackUnavoidable):
        document("docker", OPEN, Wanted(("docker.io",), fallback=False))


@pytest.mark.parametrize("client", CLIENTS)
def test_what_happens_when_the_mirror_is_away_depends_on_fallback(client: str) -> None:
    assert "asks the original registry" in document(client, OPEN)["when_the_mirror_is_away"]
    if client != "docker":
        away = document(client, OPEN, replace(BOTH, fallback=False))["when_the_mirror_is_away"]
        assert "never asked" in away


def test_traps_name_what_this_mirror_needs() -> None:
    def traps(mirror: Mirror) -> str:
        return " ".join(document("containerd", mirror)["traps"])

    assert "https://s3.corp" in traps(replace(OPEN, s3_url="https://s3.corp"))
    assert "has no TLS" in traps(replace(OPEN, url="http://mirror.corp"))
    assert "no pull token yet" in traps(replace(CLOSED, has_pull_token=False))
    assert "no pull token yet" not in traps(CLOSED)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1])
def test_a_script_that_breaks_off_runs_no_command(client: str, share: float, tmp_path: Path) -> None:
    script = document(client, CLOSED)["script"]
    cut = script[: int((len(script) - len("}\n")) * share)]
    # Any command would be reported as not found, because PATH is an empty folder.
    done = subprocess.run(["/bin/sh"], input=cut, text=True, capture_output=True, env={"PATH": str(tmp_path)})
    assert "not found" not in done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_script_without_the_token_stops_before_it_writes(client: str, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "id").chmod(0o755)
    script = document(client, CLOSED)["script"]
    done = subprocess.run(["/bin/sh"], input=script, text=True, capture_output=True, env={"PATH": str(tmp_path)})
    assert done.returncode != 0
    assert "MIRROR_PULL_TOKEN: Set it to the pull token of the mirror" in done.stderr
    assert "not found" not in done.stderr


def test_a_file_is_installed_as_it_is_but_for_its_placeholder(tmp_path: Path) -> None:
    content = f'a = "$HOME `id` \\ \\n {LOGIN} ${{x}}"\n'
    file = NodeFile(str(tmp_path / "new folder" / "file"), content)
    subprocess.run(
        ["/bin/sh", "-euc", file.install], check=True, env={"PATH": "/usr/bin:/bin", "MIRROR_LOGIN": "bG9n="}
    )
    written = Path(file.path)
    assert written.read_text() == content.replace(LOGIN, "bG9n=")
    assert written.stat().st_mode & 0o777 == 0o600
