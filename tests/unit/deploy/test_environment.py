"""The environment variables of the processes, and those for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.local.data_folder import CannotStart, DataFolder
from deploy.local.embedded import S3, Valkey
from deploy.local.environment import for_other_tools, for_processes, marker, variables_of_own_servers, with_json_logs
from deploy.local.processes import Process, Stage
from mirror.settings import Settings

NOTHING = Process("any", ("/bin/true",), Stage.S3, stop_within=1)
VALKEY = Valkey(NOTHING, "redis://:password@127.0.0.1:16379/0")
EMBEDDED_S3 = S3(NOTHING, Path("/data/s3"), "http://127.0.0.1:19000", "access", "secret")


def settings(**fields: Any) -> Settings:
    return Settings(data_dir=Path("/data"), **fields)


def test_processes_receive_the_data_folder_as_an_absolute_path() -> None:
    passed = for_processes({"MIRROR_DATA_DIR_FILE": "/etc/where", "HOME": "/root"}, settings(), None, None)
    assert passed == {"MIRROR_DATA_DIR": "/data", "HOME": "/root"}


def test_variables_for_the_real_aws_or_another_rclone_are_dropped_for_an_embedded_s3() -> None:
    caller = {"AWS_PROFILE": "work", "AWS_CA_BUNDLE": "", "RCLONE_RC": "true", "PATH": "/bin"}
    passed = for_processes(caller, settings(), VALKEY, EMBEDDED_S3)
    assert not passed.keys() & {"AWS_PROFILE", "AWS_CA_BUNDLE", "RCLONE_RC"}
    assert passed["PATH"] == "/bin"
    assert passed["MIRROR_S3_SYNC_FOLDER"] == "/data/s3"
    assert passed["RCLONE_AUTH_KEY"] == '"access,secret"'


@pytest.mark.parametrize(
    ("fields", "redirect"),
    [
        ({}, "false"),
        ({"s3_public_endpoint": "https://s3.example"}, None),
        ({"serve_redirect": "true"}, None),
    ],
)
def test_clients_are_not_redirected_to_an_embedded_s3_unless_that_was_asked_for(
    fields: dict[str, Any], redirect: str | None
) -> None:
    assert for_processes({}, settings(**fields), None, EMBEDDED_S3).get("MIRROR_SERVE_REDIRECT") == redirect


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


def test_processes_always_log_json_whatever_the_log_format_is() -> None:
    passed = with_json_logs({"MIRROR_LOG_FORMAT": "text", "MIRROR_LOG_FORMAT_FILE": "/etc/form", "HOME": "/root"})
    assert passed == {"MIRROR_LOG_FORMAT": "json", "HOME": "/root"}


@pytest.fixture
def first(tmp_path: Path) -> DataFolder:
    return DataFolder.open(tmp_path / "first")


def sourced(folder: DataFolder, **variables: str) -> dict[str, str]:
    """Return the variables of a shell that exported the folder's file ``env``.

    *variables* were set after that.
    """
    embedded = {
        "MIRROR_STORES_OF": str(folder.root),
        "MIRROR_REDIS_URL": f"redis://:{folder.secret('redis-password')}@127.0.0.1:16379/0",
        "MIRROR_S3_BUCKET": "mirror",
        "AWS_ACCESS_KEY_ID": folder.secret("s3-access-key")[:20],
    }
    return embedded | variables


def test_the_stores_of_another_folder_are_named_and_refused(first: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as refused:
        variables_of_own_servers(sourced(first), tmp_path / "second")
    for part in (str(first.root / "env"), "MIRROR_REDIS_URL and MIRROR_S3_BUCKET", str(tmp_path / "second")):
        assert part in str(refused.value)
    assert first.secret("redis-password") not in str(refused.value)


@pytest.mark.parametrize("variables", [{"MIRROR_STORES_OF": ""}, {"MIRROR_REDIS_URL": "", "MIRROR_S3_BUCKET": ""}])
def test_stores_that_are_shared_on_purpose_or_no_longer_named_are_allowed(
    first: DataFolder, tmp_path: Path, variables: dict[str, str]
) -> None:
    assert variables_of_own_servers(sourced(first, **variables), tmp_path / "second") == set()


def test_variables_of_the_folders_own_servers_are_dropped_and_external_ones_are_kept(
    first: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = variables_of_own_servers(sourced(first), first.root)
    assert {"MIRROR_REDIS_URL", "MIRROR_S3_BUCKET", "MIRROR_S3_ENDPOINT", "AWS_SECRET_ACCESS_KEY"} <= own
    external = sourced(first, MIRROR_REDIS_URL="redis://redis.corp/0", AWS_ACCESS_KEY_ID="AKIA")
    assert variables_of_own_servers(external, first.root) == set()
    monkeypatch.chdir(tmp_path)
    assert variables_of_own_servers(sourced(first, MIRROR_STORES_OF="first/."), first.root) == own


def test_the_marker_is_one_word_for_a_shell() -> None:
    assert marker(DataFolder(Path("/a folder/of 'mine'"))) == "MIRROR_STORES_OF='/a folder/of '\"'\"'mine'\"'\"''\n"
