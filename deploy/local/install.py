"""Run pip with progress: ``python -m deploy.local.install REQUIREMENTS``.

The Makefile calls it.

The requirements file must name a hash for every package (`make lock`), whatever the index says.

pip alone is silent for a minute, or prints hundreds of lines. Its output is shown only if it fails. Nothing but Python
is installed yet when this runs. All output goes to stderr, because stdout is the log of `make run`.
"""

from __future__ import annotations

import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, TextIO, cast

_TICK: Final = 1.0
_SELDOM: Final = 5.0
"""Seconds between two lines if the output is no terminal."""
_COLLECTING: Final = re.compile(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)")


def main(requirements: Path, terminal: TextIO) -> int:
    """Install *requirements* with progress, and return pip's exit status."""
    pip_install = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    progress = Progress(requirements, terminal)
    with subprocess.Popen(
        [*pip_install, "--require-hashes", "-r", str(requirements)],
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as pip:
        printed = []
        for line in _lines_or_ticks(cast("IO[bytes]", pip.stdout)):
            printed.append(line or "")
            progress.update(line)
        status = pip.wait()
    progress.end(status, "".join(printed))
    return status


def _lines_or_ticks(output: IO[bytes]) -> Iterator[str | None]:
    """Yield each line when it is printed, and None after a second without one."""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        rest = b""
        while True:
            if not selector.select(_TICK):
                yield None
                continue
            piece = output.read(65536)
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            yield from (f"{line.decode(errors='replace')}\n" for line in lines)
    if rest:
        yield rest.decode(errors="replace")


class Progress:
    """Shows pip's progress.

    On a terminal it rewrites one line. Elsewhere it prints a new line every few seconds.
    """

    def __init__(self, requirements: Path, terminal: TextIO) -> None:
        self._terminal = terminal
        self._rewrites = terminal.isatty()
        self._total = len(packages_of(requirements))
        self._requirements = requirements
        self._collected: set[str] = set()
        self._doing = f"Installing {requirements}"
        self._began = time.monotonic()
        self._shown_at = float("-inf")

    def update(self, line: str | None) -> None:
        """Show the progress after pip printed *line*, or None for a second without one."""
        if line and (found := _COLLECTING.match(line)):
            self._collected.add(found[1].lower())
            number = min(len(self._collected), self._total)
            self._doing = f"Installing {self._requirements}: package {number} of {self._total}, {found[1]}"
        elif line and line.startswith("Installing collected packages"):
            self._doing = f"Installing {self._requirements}: unpacking {self._total} packages"
        self._show()

    def end(self, status: int, printed: str) -> None:
        """Show the result. After a failure, show all that pip *printed*."""
        if self._rewrites:
            self._terminal.write("\r\033[K")
        if status == 0:
            self._terminal.write(f"Installed {self._requirements} in {self._seconds:.0f} s\n")
        else:
            self._terminal.write(f"{printed}\npip could not install {self._requirements}. Its output above says why.\n")
        self._terminal.flush()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _show(self) -> None:
        text = f"{self._doing} ({self._seconds:.0f} s)"
        if self._rewrites:
            self._terminal.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
        elif self._seconds - self._shown_at >= _SELDOM:
            self._shown_at = self._seconds
            self._terminal.write(f"{text}\n")
        self._terminal.flush()


def packages_of(requirements: Path) -> set[str]:
    """Return the packages in a requirements file and in the files it includes."""
    found: set[str] = set()
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if included := re.match(r"-r\s*(\S+)|--requirement[ =](\S+)", line):
            found |= packages_of(requirements.parent / (included[1] or included[2]))
        elif package := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
            found.add(package[0].lower())
    return found


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), sys.stderr))
    except KeyboardInterrupt:  # pip received the same Ctrl-C
        sys.exit(130)
