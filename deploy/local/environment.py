"""What the processes are told: the caller's environment, and how to reach the embedded servers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.data_folder import DataFolder
from deploy.local.embedded import BUCKET, S3, Valkey
from deploy.local.errors import CannotStart
from mirror.settings import Settings

STORES_OF: Final = "MIRROR_STORES_OF"
_STORES: Final = ("MIRROR_REDIS_URL", "MIRROR_S3_BUCKET")
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


def for_pipes(told: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with JSON as the form of log lines: deploy/local/lines.py renders them for a person."""
    return {**{name: told[name] for name in told if name != "MIRROR_LOG_FORMAT_FILE"}, "MIRROR_LOG_FORMAT": "json"}


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
        "MIRROR_S3_PREFIX": settings.s3_prefix,
        **{name: environment.get(name) for name in _CREDENTIALS},
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in known.items() if value)


def marker(folder: DataFolder) -> str:
    """The last line of the file ``env``: `of_embedded_servers` knows by it a shell that has sourced the file."""
    return f"{STORES_OF}={shlex.quote(str(folder.root))}\n"


def of_embedded_servers(caller: Mapping[str, str], data_dir: Path) -> set[str]:
    """Return the variables in which *caller* names the stores of a mirror because it has sourced a file ``env``.

    For the embedded servers of *data_dir* itself they can be dropped, since the same servers will be started again.
    Raises CannotStart where they belong to another folder: two mirrors would share one Redis and one bucket.
    """
    first, named = caller.get(STORES_OF), [name for name in _STORES if caller.get(name)]
    if not first or not named:
        return set()
    if Path(first).resolve() != data_dir.resolve():
        raise CannotStart(
            f"This shell has sourced {Path(first) / 'env'}: {' and '.join(named)} name the stores of the mirror in"
            f" {first}, and the one in {data_dir} would use them too. Start it in a new shell, with MIRROR_DATA_DIR and"
            f" MIRROR_PORT of its own. To share the stores on purpose, unset {STORES_OF}."
        )
    own = set()
    if _secret(data_dir, "redis-password") in caller.get("MIRROR_REDIS_URL", ""):
        own.add("MIRROR_REDIS_URL")
    if _secret(data_dir, "s3-access-key")[:20] == caller.get("AWS_ACCESS_KEY_ID"):
        own |= {"MIRROR_S3_ENDPOINT", "MIRROR_S3_BUCKET", "MIRROR_S3_SYNC_FOLDER", *_CREDENTIALS}
    return own


def _secret(data_dir: Path, name: str) -> str:
    try:
        secret = (data_dir / "secrets" / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        secret = ""
    return secret or "none, which no setting names"
