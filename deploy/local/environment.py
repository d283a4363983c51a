"""Environment variables of the processes, and of tools that use the same stores."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deploy.local.data_folder import CannotStart, DataFolder
from deploy.local.embedded import BUCKET, S3, Valkey
from mirror.settings import Settings

STORES_OF: Final = "MIRROR_STORES_OF"
"""The variable of the file ``env`` that holds the data folder of the embedded servers."""
_STORES: Final = ("MIRROR_REDIS_URL", "MIRROR_S3_BUCKET")
_CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def for_processes(
    caller: Mapping[str, str], settings: Settings, valkey: Valkey | None, s3: S3 | None
) -> dict[str, str]:
    """Return the environment of every process.

    It is the caller's, with the variables of the embedded servers.

    *settings* are read from *caller*, with an absolute data folder.
    """
    added = {"MIRROR_DATA_DIR": str(settings.data_dir)}
    dropped: tuple[str, ...] = ()
    if valkey:
        added["MIRROR_REDIS_URL"] = valkey.url
    if s3:
        # A profile, a session token, an endpoint or a CA bundle for the real AWS would break the embedded S3.
        dropped = ("AWS_", "RCLONE_")
        added |= _s3_variables(s3, settings)
    kept = {name: value for name, value in caller.items() if not name.startswith(dropped)} if dropped else dict(caller)
    for name in added:
        kept.pop(f"{name}_FILE", None)
    return kept | added


def with_json_logs(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with JSON as the log format.

    deploy/local/output.py renders the lines for a person.
    """
    kept = {name: value for name, value in variables.items() if name != "MIRROR_LOG_FORMAT_FILE"}
    return {**kept, "MIRROR_LOG_FORMAT": "json"}


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
        # Never as an argument, because every user of the machine can read arguments.
        "RCLONE_AUTH_KEY": s3.auth_key,
    }
    if settings.serve_redirect == "auto" and settings.s3_public_endpoint is None:
        variables["MIRROR_SERVE_REDIRECT"] = "false"  # clients on other machines cannot reach our loopback
    return variables


def for_other_tools(environment: Mapping[str, str], settings: Settings) -> str:
    """Return the file ``env`` for tools that use the same Redis and bucket.

    A shell can source it.

    Unknown values are left out, such as credentials of an external S3 that boto3 finds itself.
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
    """Return the last line of the file ``env``.

    It marks a shell that has sourced the file.
    """
    return f"{STORES_OF}={shlex.quote(str(folder.root))}\n"


def variables_of_own_servers(caller: Mapping[str, str], data_dir: Path) -> set[str]:
    """Return the caller's variables that name the servers of *data_dir* itself.

    A shell has them after it sourced a file ``env``. They can be dropped, because the same servers are started again.
    Raises CannotStart if they name the servers of another folder: two mirrors would share one Redis and one bucket.
    """
    other, named = caller.get(STORES_OF), [name for name in _STORES if caller.get(name)]
    if not other or not named:
        return set()
    if Path(other).resolve() != data_dir.resolve():
        raise CannotStart(
            f"This shell has sourced {Path(other) / 'env'}: {' and '.join(named)} name the stores of the mirror in"
            f" {other}, and the mirror in {data_dir} would use them too. Start it in a new shell, with its own"
            f" MIRROR_DATA_DIR and MIRROR_PORT. To share the stores on purpose, unset {STORES_OF}."
        )
    own = set()
    if _secret(data_dir, "redis-password") in caller.get("MIRROR_REDIS_URL", ""):
        own.add("MIRROR_REDIS_URL")
    if _secret(data_dir, "s3-access-key")[:20] == caller.get("AWS_ACCESS_KEY_ID"):
        own |= {"MIRROR_S3_ENDPOINT", "MIRROR_S3_BUCKET", "MIRROR_S3_SYNC_FOLDER", *_CREDENTIALS}
    return own


def _secret(data_dir: Path, name: str) -> str:
    """Return a secret of the data folder, or a text that no variable contains."""
    try:
        secret = (data_dir / "secrets" / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        secret = ""
    return secret or "there is no such secret"
