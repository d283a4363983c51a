"""The programs of the benchmark: where they are, and which build of them."""

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


class Missing(Exception):
    """A program without which nothing can be measured is not installed."""


def find(name: str) -> Path | None:
    """The program as ``bench/programs`` installed it, before one of this machine; None if there is none."""
    path = os.pathsep.join([*map(str, _OWN), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def require(*names: str) -> Path:
    """The first of *names* that is installed; raises Missing."""
    for name in names:
        if found := find(name):
            return found
    raise Missing(f"{' or '.join(names)} is not installed: run bench/programs")


def version(program: Path) -> str:
    """What the program says it is, and for one made with Go whether its SHA-256 uses the processor's instructions."""
    argument = _VERSION_ARGUMENTS.get(program.name, "--version")
    told = subprocess.run([program, argument], capture_output=True, text=True, timeout=30, check=False)
    built = _build_information(program)
    found = _VERSION.search(told.stdout) or _MODULE.search(built)
    number = found.group().split()[-1].removesuffix("+unknown") if found else "of unknown version"
    return f"{program.name} {number}{_of_go(built)}"


def _of_go(build_information: str) -> str:
    """``, Go 1.26.8``, with a warning where SHA-256 is made without the processor's instructions (Go before 1.21)."""
    found = _GO.search(build_information)
    if found is None:
        return ""
    major, minor = map(int, found.group(1).split(".")[:2])
    slow = (major, minor) < _GO_USES_SHA_INSTRUCTIONS_SINCE
    return f", Go {found.group(1)}{' WITHOUT SHA INSTRUCTIONS' if slow else ''}"


def _build_information(program: Path) -> str:
    """What Go's linker wrote into the program; empty without Go here."""
    go = shutil.which("go")
    if go is None:
        return ""
    return subprocess.run(
        [go, "version", "-m", program], capture_output=True, text=True, timeout=30, check=False
    ).stdout
