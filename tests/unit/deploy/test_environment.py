"""What the processes are told, and what other tools are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.local.data_folder import DataFolder
from deploy.local.embedded import S3, Valkey
from deploy.local.environment import for_other_tools, for_pipes, for_processes, marker, of_embedded_servers
from deploy.local.errors import CannotStart
from deploy.local.processes import Process, Stage
from mirror.settings import Settings

NOTHING = Process("any", ("/bin/true",), Stage.S3, stop_within=1)
VALKEY = Valkey(NOTHING, "redis://:password@127.0.0.1:16379/0")
EMBEDDED_S3 = S3(NOTHING, Path("/data/s3"), "http://127.0.0.1:19000", "access", "secret")


def settings(**fields: Any) -> Settings:
    return Settings(data_dir=Path("/data"), **fields)


def test_the_data_folder_is_told_as_an_absolute_path() -> None:
    told = for_processes({"MIRROR_DATA_DIR_FILE": "/etc/where", "HOME": "/root"}, settings(), None, None)
    assert told == {"MIRROR_DATA_DIR": "/data", "HOME": "/root"}


def test_what_is_meant_for_the_real_aws_or_another_rclone_is_dropped_for_an_embedded_s3() -> None:
    caller = {"AWS_PROFILE": "work", "AWS_CA_BUNDLE": "", "RCLONE_RC": "true", "PATH": "/bin"}
    told = for_processes(caller, settings(), VALKEY, EMBEDDED_S3)
    assert not told.keys() & {"AWS_PROFILE", "AWS_CA_BUNDLE", "RCLONE_RC"}
    assert told["PATH"] == "/bin"
    assert told["MIRROR_S3_SYNC_FOLDER"] == "/data/s3"
    assert told["RCLONE_AUTH_KEY"] == '"access,secret"'


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "false"),
        ({"s3_public_endpoint": "https://s3.example"}, None),
        ({"serve_redirect": "true"}, None),
    ],
)
def test_clients_are_not_redirected_to_an_embedded_s3_unless_that_was_asked_for(
    fields: dict[str, Any], told: str | None
) -> None:
    assert for_processes({}, settings(**fields), None, EMBEDDED_S3).get("MIRROR_SERVE_REDIRECT") == told


def test_values_in_the_env_file_are_quoted_for_a_shell_and_unknown_ones_are_left_out() -> None:
    external = settings(redis_url="redis://host/0?a=b c", s3_bucket="images", s3_region="eu-west-1")
    assert for_other_tools({}, external).splitlines() == [
        "MIRROR_URL=http://127.0.0.1:8080",
        "MIRROR_REDIS_URL='redis://host/0?a=b c'",
        "MIRROR_S3_BUCKET=images",
        "MIRROR_S3_REGION=eu-west-1",
    ]


def test_no_secret_is_in_a_repr() -> None:
    assert "password" not in repr(VALKEY)
    assert "secret" not in repr(EMBEDDED_S3)


def test_processes_write_json_into_their_pipes_whatever_the_person_wants_to_see() -> None:
    told = for_pipes({"MIRROR_LOG_FORMAT": "text", "MIRROR_LOG_FORMAT_FILE": "/etc/form", "HOME": "/root"})
    assert told == {"MIRROR_LOG_FORMAT": "json", "HOME": "/root"}


@pytest.fixture
def first(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "first")


def sourced(folder: DataFolder, **variables: str) -> dict[str, str]:
    """A shell that has exported the file ``env`` of the folder's mirror, and *variables* after that."""
    embedded = {
        "MIRROR_STORES_OF": str(folder.root),
        "MIRROR_REDIS_URL": f"redis://:{folder.secret('redis-password')}@127.0.0.1:16379/0",
        "MIRROR_S3_BUCKET": "mirror",
        "AWS_ACCESS_KEY_ID": folder.secret("s3-access-key")[:20],
    }
    return embedded | variables


def test_the_stores_of_another_folder_are_refused_by_name(first: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as refused:
        of_embedded_servers(sourced(first), tmp_path / "second")
    for said in (str(first.root / "env"), "MIRROR_REDIS_URL and MIRROR_S3_BUCKET", str(tmp_path / "second")):
        assert said in str(refused.value)
    assert first.secret("redis-password") not in str(refused.value)


@pytest.mark.parametrize("variables", [{"MIRROR_STORES_OF": ""}, {"MIRROR_REDIS_URL": "", "MIRROR_S3_BUCKET": ""}])
def test_shared_on_purpose_or_not_named_any_more_they_are_no_hindrance(
    first: DataFolder, tmp_path: Path, variables: dict[str, str]
) -> None:
    assert of_embedded_servers(sourced(first, **variables), tmp_path / "second") == set()


def test_a_folder_drops_what_names_its_own_servers_and_keeps_what_is_external(
    first: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = of_embedded_servers(sourced(first), first.root)
    assert {"MIRROR_REDIS_URL", "MIRROR_S3_BUCKET", "MIRROR_S3_ENDPOINT", "AWS_SECRET_ACCESS_KEY"} <= own
    external = sourced(first, MIRROR_REDIS_URL="redis://redis.corp/0", AWS_ACCESS_KEY_ID="AKIA")
    assert of_embedded_servers(external, first.root) == set()
    monkeypatch.chdir(tmp_path)
    assert of_embedded_servers(sourced(first, MIRROR_STORES_OF="first/."), first.root) == own


def test_the_marker_is_one_word_for_a_shell() -> None:
    assert marker(DataFolder(Path("/a folder/of 'mine'"))) == "MIRROR_STORES_OF='/a folder/of '\"'\"'mine'\"'\"''\n"
