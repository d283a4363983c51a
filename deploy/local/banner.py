"""What the person who typed `make run` reads first."""

from __future__ import annotations

import shlex

from mirror.settings import Settings


def facts(settings: Settings) -> dict[str, str]:
    """Return where everything is, for a log that a machine reads; the admin token is named, never shown."""
    token = "MIRROR_ADMIN_TOKEN" if settings.admin_token else str(settings.data_dir / "admin-token")
    return {
        "url": settings.public_url,
        "admin_token": token,
        "data_dir": str(settings.data_dir),
        "env": str(settings.data_dir / "env"),
    }


def text(settings: Settings) -> str:
    """Return where everything is and a line to try; the admin token is named, never shown."""
    token = settings.data_dir / "admin-token"
    if settings.admin_token:
        where, shell = "the value of MIRROR_ADMIN_TOKEN", "$MIRROR_ADMIN_TOKEN"
    else:
        where, shell = str(token), f"$(cat {shlex.quote(str(token))})"
    return f"""
  Image Mirror

  URL           {settings.public_url}
  Admin token   {where}
  Data folder   {settings.data_dir}
  Other tools   . {shlex.quote(str(settings.data_dir / "env"))}

  Mirror your first image:
    curl -H "Authorization: Bearer {shell}" -H 'Content-Type: application/json' \\
      -d '{{"source": "docker.io/library/alpine:3.20"}}' {settings.public_url}/v1/jobs

  Starting; Ctrl-C stops everything.
"""
