"""The programs of the benchmark: their paths and versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
TOOLS: Final = REPOSITORY / ".tools" / "bench"
_OWN: Final = (TOOLS, REPOSITORY / ".tools" / "bin", Path(sys.executable).parent)
_GO: Final = re.compile(r"\bgo(\d+\.\d+(?:\.\d+)?)")
_GO_USES_SHA_INSTRUCTIONS_SINCE: Final = (1, 21)
_MODULE: Final = re.compile(r"^\s*mod\s+\S+\s+(v\S+)", re.MULTILINE)
_VERSION_ARGUMENTS: Final = {"crane": "version", "regctl": "version", "regsync": "version"}
_VERSION: Final = re.compile(r"\bv?\d+\.\d+\.\d+\S*")


class ProgramMissing(Exception):
    """A program that the benchmark needs is not installed."""


def find(name: str) -> Path | None:
    """Return the program of ``bench/programs``, else this machine's, or None."""
    path = os.pathsep.join([*map(str, _OWN), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def require(*names: str) -> Path:
    """Return the first of *names* that is installed. Raises ProgramMissing."""
    for name in names:
        if found := find(name):
            return found
    raise ProgramMissing(f"{' or '.join(names)} is not installed: run bench/programs")


def version(program: Path) -> str:
    """Return the program's name and version, and for a Go program also Go's version."""
    argument = _VERSION_ARGUMENTS.get(program.name, "--version")
    done = subprocess.run([program, argument], capture_output=True, text=True, timeout=30, check=False)
    built = _build_information(program)
    found = _VERSION.search(done.stdout) or _MODULE.search(built)
    number = found.group().split()[-1].removesuffix("+unknown") if found else "of unknown version"
    return f"{program.name} {number}{_go_version(built)}"


def _go_version(build_information: str) -> str:
    """Return text such as ``, Go 1.26.8``, with a warning if its SHA-256 is slow.

    Go before 1.21 does not use the processor's SHA instructions.
    """
    found = _GO.search(build_information)
    if found is None:
        return ""
    major, minor = map(int, found.group(1).split(".")[:2])
    slow = (major, minor) < _GO_USES_SHA_INSTRUCTIONS_SINCE
    return f", Go {found.group(1)}{' WITHOUT SHA INSTRUCTIONS' if slow else ''}"


def _build_information(program: Path) -> str:
    """Return the build information of a Go program, or nothing without Go."""
    go = shutil.which("go")
    if go is None:
        return ""
    return subprocess.run(
        [go, "version", "-m", program], capture_output=True, text=True, timeout=30, check=False
    ).stdout
