"""What the S3 servers have in common: an endpoint, a bucket and a key pair of their own."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from pathlib import Path
from typing import Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from mypy_boto3_s3 import S3Client

from tests.servers.process import Server

REGION: Final = "us-east-1"


class S3Server(Server):
    """An S3 server that keeps its objects in files, with one bucket made at start."""

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
        """A plain boto3 client of this server, for tests that look behind the mirror's back; close it."""
        session = boto3.session.Session(
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key, region_name=REGION
        )
        settings = Config(
            proxies={},
            connect_timeout=2,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.client("s3", endpoint_url=self.url, config=settings)

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
        """The environment variables that make a process of Image Mirror use this server."""
        return {
            "MIRROR_S3_ENDPOINT": self.url,
            "MIRROR_S3_BUCKET": self.bucket,
            "MIRROR_S3_REGION": REGION,
            "MIRROR_S3_PREFIX": prefix,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }
