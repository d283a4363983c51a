"""What the processes are told, and what other tools are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.local.embedded import S3, Valkey
from deploy.local.environment import for_other_tools, for_processes
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
