"""The compose file: settings, secrets, restrictions, and the rights of S3 keys."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
import urllib3
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from mypy_boto3_s3 import S3Client

from mirror.settings import Settings
from tests.support import images
from tests.support.servers import REGION, DockerRegistry
from tests.support.servers.process import Server, program

COMPOSE: Final = Path("deploy/compose")
FILE: Final = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = FILE["services"]
NOT_FOR_COMPOSE: Final = {
    "heartbeat_path": "the image sets it, and its health check reads it",
    "host": "the image says 0.0.0.0",
    "port": "Compose publishes the image's port",
    "data_dir": "a container keeps nothing",
    "workers": "Compose starts the workers",
    "s3_sync_folder": "the gateway syncs objects itself",
    "trusted_roots": "only a Sigstore of your own needs it, and a folder to mount",
}
ONCE: Final = {"s3-volume", "s3-setup"}


def settings_of(service: str) -> set[str]:
    """Return the variables that a container has, by their own names and without ``_FILE``."""
    given = SERVICES[service]["environment"]
    return {*given, *(name.removesuffix("_FILE") for name in given)}


@pytest.mark.parametrize("setting", [field.name for field in fields(Settings)])
def test_every_setting_reaches_the_containers_that_read_it(setting: str) -> None:
    variable = f"MIRROR_{setting.upper()}"
    given = variable in settings_of("service") | settings_of("worker")
    assert given != (setting in NOT_FOR_COMPOSE)


@pytest.mark.parametrize("setting", ["allowed_networks", "registry_endpoints", "job_retention", "public_url"])
def test_what_a_job_is_checked_by_is_the_same_where_jobs_are_accepted(setting: str) -> None:
    """The service accepts the jobs of users, and the scheduler those of schedules."""
    variable = f"MIRROR_{setting.upper()}"
    given = [SERVICES[name]["environment"][variable] for name in ("service", "scheduler", "worker")]
    assert given[0] == given[1] == given[2]


@pytest.mark.parametrize("token", ["admin-token", "pull-token"])
def test_only_the_service_has_the_tokens(token: str) -> None:
    receivers = {name for name, service in SERVICES.items() if token in service.get("secrets", [])}
    assert receivers == {"service"}
    variable = f"MIRROR_{token.upper().replace('-', '_')}"
    assert variable in settings_of("service")
    assert not any(variable in settings_of(name) for name in ("worker", "scheduler"))


def test_each_secret_is_passed_only_to_the_containers_that_need_it() -> None:
    def receivers_of(secret: str) -> set[str]:
        return {name for name, service in SERVICES.items() if secret in service.get("secrets", [])}

    assert receivers_of("docker-config") == {"worker"}
    assert receivers_of("attestation-key") == {"worker"}
    assert receivers_of("s3-root") == {"s3", "s3-setup"}
    assert receivers_of("aws-credentials") == {"service", "worker", "scheduler", "s3-setup"}
    assert receivers_of("registry-credentials") == {"registry", "s3-setup"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service.get("cap_add", []) == (["CHOWN", "DAC_READ_SEARCH"] if name == "s3-volume" else [])
    if name not in ("service", "worker", "scheduler", "s3-setup"):  # those run as the user that our image names
        assert service["user"].split(":")[0] not in ("", "0", "root") or name == "s3-volume"


class ComposeGateway(Server):
    """The gateway as the compose file starts it, with its paths moved below a folder."""

    name = "compose-s3"

    def __init__(self, directory: Path, secrets: Path) -> None:
        super().__init__(directory)
        self.secrets = secrets

    def localize(self, text: str) -> str:
        """Return a command of the compose file with the paths of this test."""
        text = text.replace("$$", "$").replace("/run/secrets", str(self.secrets))
        text = text.replace("/data", f"{self.directory}/data").replace("/tmp/iam", f"{self.directory}/iam")
        return text.replace(":7070", f"127.0.0.1:{self.port}")

    def command(self) -> list[str]:
        return ["/bin/sh", "-ec", self.localize(SERVICES["s3"]["command"][0])]

    def environment(self) -> Mapping[str, str]:
        return {"PATH": f"{program('versitygw').resolve().parent}{os.pathsep}{os.environ['PATH']}"}

    def answers(self) -> bool:
        try:
            return urllib3.request("GET", f"{self.url}/health", retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False


def test_the_settings_accept_the_secrets_that_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(COMPOSE / "make-secrets", tmp_path)
    subprocess.run([tmp_path / "make-secrets"], check=True)
    for name in ("admin-token", "pull-token", "attestation-key"):
        monkeypatch.setenv(f"MIRROR_{name.upper().replace('-', '_')}_FILE", str(tmp_path / "secrets" / name))
    settings = Settings.load()
    assert settings.admin_token not in (None, *settings.pull_token)
    assert [len(token) for token in settings.pull_token] == [64]
    assert settings.attestation_key is None


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeGateway]:
    folder = tmp_path_factory.mktemp("compose")
    shutil.copy(COMPOSE / "make-secrets", folder)
    subprocess.run([folder / "make-secrets"], check=True)
    with ComposeGateway(folder, folder / "secrets") as server:
        environment = {"S3_ENDPOINT": server.url, "S3_BUCKET": "images"}
        for _ in range(2):  # it runs at every start
            setup: list[str | Path] = [sys.executable, COMPOSE / "s3-setup.py", server.secrets]
            subprocess.run(setup, check=True, env=environment)
        yield server


def client(gateway: ComposeGateway, credentials: str) -> S3Client:
    profile = configparser.ConfigParser()
    profile.read(gateway.secrets / credentials)
    key = profile["default"]
    session = boto3.session.Session(key["aws_access_key_id"], key["aws_secret_access_key"], region_name=REGION)
    return session.client("s3", endpoint_url=gateway.url, config=Config(proxies={}))


def refused(call: Callable[[], object]) -> bool:
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"]) == "AccessDenied"


@pytest.mark.versitygw
def test_the_mirrors_key_is_for_its_bucket_alone(gateway: ComposeGateway) -> None:
    mirror = client(gateway, "aws-credentials")
    mirror.put_object(Bucket="images", Key="a/b", Body=b"bytes")
    assert mirror.get_object(Bucket="images", Key="a/b")["Body"].read() == b"bytes"
    upload = mirror.create_multipart_upload(Bucket="images", Key="a/c")["UploadId"]
    assert mirror.list_multipart_uploads(Bucket="images")["Uploads"]
    part = mirror.upload_part(Bucket="images", Key="a/c", UploadId=upload, PartNumber=1, Body=b"part")
    mirror.complete_multipart_upload(
        Bucket="images",
        Key="a/c",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    other = mirror.create_multipart_upload(Bucket="images", Key="a/d")["UploadId"]
    mirror.abort_multipart_upload(Bucket="images", Key="a/d", UploadId=other)
    mirror.delete_object(Bucket="images", Key="a/b")
    assert [found["Key"] for found in mirror.list_objects_v2(Bucket="images")["Contents"]] == ["a/c"]
    assert refused(lambda: mirror.create_bucket(Bucket="other"))
    assert refused(lambda: mirror.put_bucket_policy(Bucket="images", Policy=json.dumps({"Statement": []})))


@pytest.mark.versitygw
def test_the_stock_registrys_key_can_only_read(gateway: ComposeGateway) -> None:
    client(gateway, "aws-credentials").put_object(Bucket="images", Key="r/b", Body=b"bytes")
    registry = client(gateway, "registry-credentials")
    assert registry.get_object(Bucket="images", Key="r/b")["Body"].read() == b"bytes"
    assert registry.list_objects_v2(Bucket="images", Prefix="r/")["KeyCount"] == 1
    assert refused(lambda: registry.put_object(Bucket="images", Key="r/b", Body=b"other"))
    assert refused(lambda: registry.delete_object(Bucket="images", Key="r/b"))
    assert refused(lambda: registry.create_multipart_upload(Bucket="images", Key="r/c"))


@pytest.mark.docker_registry
@pytest.mark.skopeo
def test_the_digests_of_all_images_are_written_as_they_are_now(tmp_path: Path, docker_registry: DockerRegistry) -> None:
    made = images.three_platforms("pinned")
    repository = f"pinned/{tmp_path.name.replace('_', '-').lower()}"
    images.push(made, docker_registry.url, repository, "1")
    shutil.copy(COMPOSE / "pin-images", tmp_path)
    variables = ["BASE_IMAGE", "VALKEY_IMAGE", "VERSITYGW_IMAGE", "REGISTRY_IMAGE"]
    name = f"{docker_registry.host}/{repository}:1"
    (tmp_path / ".env.example").write_text("".join(f"{variable}={name}\n" for variable in variables))
    (tmp_path / ".env").write_text(f"VALKEY_IMAGE={name}@sha256:{'0' * 64}\n")  # pinned before
    path = f"{program('skopeo').parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PIN_IMAGES_OPTIONS": "--tls-verify=false"}
    pinned = subprocess.run([tmp_path / "pin-images"], check=True, env=environment, capture_output=True, text=True)
    assert pinned.stdout.splitlines() == [f"{variable}={name}@{made.digest}" for variable in variables]


def test_every_image_can_be_pinned() -> None:
    script = (COMPOSE / "pin-images").read_text()
    named = {match for service in SERVICES.values() for match in re.findall(r"\$\{([A-Z_]+)", service["image"])}
    assert all(variable in script for variable in named - {"MIRROR_IMAGE"})
