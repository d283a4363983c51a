"""The S3 servers of the tests: rclone, as in `make run`, and Versity's gateway."""

from __future__ import annotations

import secrets
import threading
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from mypy_boto3_s3 import S3Client

from tests.support.servers.process import Server, program

REGION: Final = "us-east-1"
_session: Final = boto3.session.Session(region_name=REGION)
"""It has read the description of S3's API, so a further client takes 4 ms and not 70."""
_making_client: Final = threading.Lock()  # boto3's guide: a session may not make two clients at once


class S3Server(Server):
    """An S3 server that keeps its objects in files.

    It has a key pair, and a bucket that is created at the start.
    """

    def __init__(self, directory: Path, *, bucket: str = "images", data: Path | None = None) -> None:
        super().__init__(directory)
        self.bucket = bucket
        self.access_key = f"access-{secrets.token_hex(8)}"
        self.secret_key = f"secret-{secrets.token_hex(16)}"
        self.data = data or directory / "data"
        self.data.mkdir(exist_ok=data is not None)

    @abstractmethod
    def command(self) -> list[str]: ...

    def client(self) -> S3Client:
        """Return a plain boto3 client, for tests that inspect the bucket. Close it."""
        settings = Config(
            proxies={},
            connect_timeout=2,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _making_client:
            return _session.client(
                "s3",
                endpoint_url=self.url,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                config=settings,
            )

    def answers(self) -> bool:
        client = self.client()
        try:
            if self.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def settings_env(self, prefix: str = "") -> dict[str, str]:
        """Return the variables with which a process of Image Mirror uses this server."""
        return {
            "MIRROR_S3_ENDPOINT": self.url,
            "MIRROR_S3_BUCKET": self.bucket,
            "MIRROR_S3_REGION": REGION,
            "MIRROR_S3_PREFIX": prefix,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }


class RcloneS3(S3Server):
    """`rclone serve s3`.

    It ignores preconditions and ``x-amz-checksum-*``, and replies to a range with status 200. SIGKILL loses its open
    uploads.
    """

    name = "rclone"

    def command(self) -> list[str]:
        address = ["--addr", f"127.0.0.1:{self.port}", "--config", str(self.directory / "rclone.conf")]
        return [str(program("rclone")), "serve", "s3", *address, str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}


class EmbeddedS3(RcloneS3):
    """rclone with the flags of `make run` that matter for reads.

    It computes no MD5 of the whole object for every GET.
    """

    def command(self) -> list[str]:
        *command, directory = super().command()
        return [*command, "--etag-hash", "", "--buffer-size", "0", directory]


class VersityGateway(S3Server):
    """The Versity S3 gateway. It checks checksums, preconditions and part lists.

    It keeps metadata in a sidecar directory, because not every file system has extended attributes.
    """

    name = "versitygw"

    def command(self) -> list[str]:
        sidecar = self.directory / "metadata"
        sidecar.mkdir(exist_ok=True)
        gateway = [str(program("versitygw")), "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet"]
        return [*gateway, "posix", "--sidecar", str(sidecar), str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
