"""Set the bucket's policy. Safe to repeat.

The mirror's key reads and writes, and the stock registry's key only reads.

Usage: s3-setup.py SECRETS, with S3_ENDPOINT and S3_BUCKET in the environment.
"""

from __future__ import annotations

import configparser
import json
import os
import sys
from pathlib import Path

import boto3
from botocore.config import Config

READ = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
WRITE = [
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:ListBucketMultipartUploads",
]


def main(secrets: Path, endpoint: str, bucket: str) -> None:
    root = dict(line.split("=", 1) for line in (secrets / "s3-root").read_text().splitlines())
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=root["ROOT_ACCESS_KEY"],
        aws_secret_access_key=root["ROOT_SECRET_KEY"],
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statements = [
        statement(access_key(secrets / "aws-credentials"), READ + WRITE, resources),
        statement(access_key(secrets / "registry-credentials"), READ, resources),
    ]
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))


def statement(key: str, actions: list[str], resources: list[str]) -> dict[str, object]:
    return {"Effect": "Allow", "Principal": {"AWS": [key]}, "Action": actions, "Resource": resources}


def access_key(credentials: Path) -> str:
    profile = configparser.ConfigParser()
    profile.read_string(credentials.read_text())
    return profile["default"]["aws_access_key_id"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ["S3_ENDPOINT"], os.environ["S3_BUCKET"])
