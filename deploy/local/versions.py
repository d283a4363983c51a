"""Which embedded servers have opened a data folder: an older one must not open what a newer one has written.

An old Redis or Valkey reads newer data as *empty*, without an error, and then writes over it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from deploy.local.data_folder import DataFolder
from deploy.local.errors import CannotStart

_NOTE: Final = "versions.json"
_SECONDS: Final = 30


def of_program(program: Path, argument: str) -> str:
    """The version that *program* prints when asked with *argument*; raises CannotStart if it does not run here."""
    try:
        answer = subprocess.run(
            [program, argument], capture_output=True, text=True, timeout=_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        raise CannotStart(f"The program {program} does not run on this machine.") from None
    found = re.search(r"\bv=?(\d+(?:\.\d+)+)", answer.stdout)
    if not found:
        raise CannotStart(f"The program {program} does not say which version it is.")
    return found[1]


def admit(folder: DataFolder, server: str, version: str) -> None:
    """Note that *server* in *version* opens *folder*; raises CannotStart if a newer one has opened it before.

    The note is made before the server starts: it may write in its first moment, and die in the second.
    """
    note = folder.read_note(_NOTE)
    newest = note.get(server)
    if isinstance(newest, str) and _numbers(newest) > _numbers(version):
        raise CannotStart(
            f"The data folder {folder.root} was written by {server} {newest}, and this is the older {server} {version},"
            " which could lose data; install the newer version again, or set MIRROR_DATA_DIR."
        )
    if newest != version:
        folder.write_note(_NOTE, {**note, server: version})


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
