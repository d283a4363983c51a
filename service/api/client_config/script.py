"""The shell script that installs a client's files on a node. Pure functions, no I/O.

The script is POSIX sh. All its commands are in one pair of braces, which sh reads before it runs the first command. So
a download that breaks off does nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

LOGIN: Final = "${MIRROR_LOGIN}"
"""The placeholder in files: user and pull token in base64, as Basic has them (RFC 7617).

Base64 needs no quotes in TOML and JSON. A token may need them.
"""
TOKEN_VARIABLE: Final = "MIRROR_PULL_TOKEN"  # noqa: S105 - a name
LOGIN_COMMAND: Final = f"MIRROR_LOGIN=$(printf 'mirror:%s' \"${TOKEN_VARIABLE}\" | base64 | tr -d '\\n')"
_EXPANDED: Final = re.compile(r"[\\$`]")
"""What sh replaces in a here-document."""


@dataclass(frozen=True, slots=True)
class NodeFile:
    """A file on a node. Its content may have the placeholder `LOGIN`, and then only root may read it.

    *writer* is a command that reads the content from standard input. By default the file is replaced.
    """

    path: str
    content: str
    writer: str | None = None

    @property
    def mode(self) -> str:
        return "0600" if LOGIN in self.content else "0644"

    @property
    def install(self) -> str:
        """The command that installs the file. It needs the variable MIRROR_LOGIN if the content has the placeholder."""
        writer = self.writer or f"install -D -m {self.mode} /dev/stdin {shlex.quote(self.path)}"
        parts = (_EXPANDED.sub(r"\\\g<0>", part) for part in self.content.split(LOGIN))
        return f"{writer} <<END_OF_FILE\n{LOGIN.join(parts)}END_OF_FILE"


def script(client: str, mirror_url: str, steps: Sequence[str], *, needs_token: bool, functions: Sequence[str]) -> str:
    """Return the whole script. *functions* are the names of files next to this module that the steps use."""
    setting = f"{TOKEN_VARIABLE}=… " if needs_token else ""
    token = [f': "${{{TOKEN_VARIABLE}:?Set it to the pull token of the mirror}}"'] if needs_token else []
    token += [LOGIN_COMMAND] if any(LOGIN in step for step in steps) else []
    lines = [
        "#!/bin/sh",
        f"# Configures {client} to pull from {mirror_url}. It may be run again.",
        f"# As root on the node: {setting}sh THIS_FILE",
        "{",
        "set -eu",
        *map(_shell_functions, functions),
        '[ "$(id -u)" = 0 ] || { echo "Run this script as root." >&2; exit 1; }',
        *token,
        *steps,
        f'echo "{client} is configured to pull from {mirror_url}"',
        "}",
    ]
    return "\n".join(lines) + "\n"


def _shell_functions(name: str) -> str:
    """Return the functions of the shell file *name* of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8").rstrip()
