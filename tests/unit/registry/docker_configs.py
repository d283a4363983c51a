"""A config.json of Docker, as a test writes it, and what is found in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from mirror.registry.credentials import DockerConfig


def docker_config(directory: Path, **fields: Any) -> DockerConfig:
    path = directory / "config.json"
    path.write_text(json.dumps(fields))
    return DockerConfig(path)


def auth_entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def found_login(
    config: DockerConfig, registry: str = "reg.example", repository: str = "team/app"
) -> tuple[str, str] | None:
    credential = config.credential(registry, repository)
    return (credential.username, credential.password) if credential else None
