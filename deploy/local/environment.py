"""What the processes are told: the caller's environment, and how to reach the embedded servers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Final

from deploy.local.embedded import BUCKET, S3, Valkey
from mirror.settings import Settings

_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def for_processes(
    caller: Mapping[str, str], settings: Settings, valkey: Valkey | None, s3: S3 | None
) -> dict[str, str]:
    """The environment of every process; *settings* are what *caller* says, with an absolute data folder."""
    told = {"MIRROR_DATA_DIR": str(settings.data_dir)}
    dropped: tuple[str, ...] = ()
    if valkey:
        told["MIRROR_REDIS_URL"] = valkey.url
    if s3:
        # A profile, a session token, an endpoint or a CA bundle meant for the real AWS would break this one.
        dropped = ("AWS_", "RCLONE_")
        told |= _s3_variables(s3, settings)
    kept = {name: value for name, value in caller.items() if not name.startswith(dropped)} if dropped else dict(caller)
    for name in told:
        kept.pop(f"{name}_FILE", None)
    return kept | told


def _s3_variables(s3: S3, settings: Settings) -> dict[str, str]:
    variables = {
        "MIRROR_S3_ENDPOINT": s3.endpoint,
        "MIRROR_S3_BUCKET": BUCKET,
        "MIRROR_S3_REGION": settings.s3_region,
        "MIRROR_S3_SYNC_FOLDER": str(s3.folder),
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        # Never as an argument: everybody on the machine can read those.
        "RCLONE_AUTH_KEY": s3.auth_key,
    }
    if settings.serve_redirect == "auto" and settings.s3_public_endpoint is None:
        variables["MIRROR_SERVE_REDIRECT"] = "false"  # clients elsewhere cannot reach our loopback
    return variables


def for_other_tools(environment: Mapping[str, str], settings: Settings) -> str:
    """The file ``env``: lines that a shell can source, for tools that look at the same Redis and bucket.

    What is not known is left out, such as credentials that an external S3 gets from boto3's own chain.
    """
    known = {
        "MIRROR_URL": settings.public_url,
        "MIRROR_REDIS_URL": settings.redis_url or environment.get("MIRROR_REDIS_URL"),
        "MIRROR_S3_ENDPOINT": settings.s3_endpoint or environment.get("MIRROR_S3_ENDPOINT"),
        "MIRROR_S3_BUCKET": settings.s3_bucket or environment.get("MIRROR_S3_BUCKET"),
        "MIRROR_S3_REGION": settings.s3_region,
        "MIRROR_S3_SYNC_FOLDER": environment.get("MIRROR_S3_SYNC_FOLDER"),
        **{name: environment.get(name) for name in _CREDENTIALS},
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in known.items() if value)
