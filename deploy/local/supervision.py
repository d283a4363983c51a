"""supervisord's configuration for a list of processes."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.data_folder import DataFolder, write_private
from deploy.local.processes import Process, Stage


def write_configuration(folder: DataFolder, processes: Sequence[Process]) -> Path:
    """Write the configuration for a supervisord that this very process will become; it holds no secret."""
    sections = [_supervisord_section()]
    for stage in Stage:
        members = [process for process in processes if process.stage is stage]
        if members:
            sections.append(_group_section(stage, members))
            sections += [_program_section(process, folder) for process in members]
    path = folder.run / "supervisord.conf"
    write_private(path, "\n".join(sections))
    return path


def _supervisord_section() -> str:
    # No [unix_http_server] and no [inet_http_server]: nobody but its parent's signals controls this supervisord.
    options = {
        "nodaemon": "true",
        "pidfile": "%(here)s/supervisord.pid",
        "logfile": os.devnull,
        "logfile_maxbytes": "0",
        "loglevel": "warn",
        "silent": "true",  # foreground.py shows its log
        # Its clean-up is by a pattern, in the temporary directory that others use too.
        "nocleanup": "true",
        "minprocs": "1",
    }
    if os.getuid() == 0:
        options["user"] = "root"  # says that it is meant, and spares the user a critical message
    return _section("supervisord", options)


def _group_section(stage: Stage, members: Sequence[Process]) -> str:
    """supervisord stops one group after the other, highest priority first (Supervisor.ordered_stop_groups_phase_1),
    and all processes of a group at once."""
    programs = ",".join(process.name for process in members)
    return _section(f"group:{stage.name.lower()}", {"programs": programs, "priority": str(int(stage))})


def _program_section(process: Process, folder: DataFolder) -> str:
    options = {
        "command": _command_line(_tethered(process, folder)),
        "numprocs": str(process.copies),
        "process_name": "%(program_name)s" + ("-%(process_num)d" if process.copies > 1 else ""),
        "autorestart": "false" if process.once else "true",
        # A process that ends within its first second is tried again after 1 s, 2 s, 3 s, ... without giving up.
        "startsecs": "0" if process.once else "1",
        "startretries": "1000000",
        "stopsignal": "TERM",
        "stopwaitsecs": str(process.stop_within),
        # SIGTERM goes to the process alone, which tells its own children what to do; SIGKILL goes to all.
        "stopasgroup": "false",
        "killasgroup": "true",
        # foreground.py forwards the output.
        "redirect_stderr": "true",
        "stdout_logfile": "NONE",
        "stdout_events_enabled": "true",
    }
    return _section(f"program:{process.name}", options)


def _tethered(process: Process, folder: DataFolder) -> list[str]:
    tether = [sys.executable, "-m", "deploy.local.tether", "--parent", str(os.getpid())]
    tether += ["--share", str(folder.children_lock)]
    if process.lock:
        tether += ["--lock", str(process.lock)]
    if process.outlives:
        tether += ["--outlive"]
    tether += [f"--only={pattern}" for pattern in process.only]
    tether += [f"--without={pattern}" for pattern in process.without]
    return [*tether, "--", *map(str, process.command)]


def _command_line(command: Sequence[str]) -> str:
    """A command as supervisord reads it: with the INI parser, then ``%`` expansion, then a shell's quoting rules.

    The parser takes ``#`` or ``;`` after any blank, Unicode's included, for the start of a comment and knows no escape,
    so an empty pair of quotes is put between them; such a blank always stands in single quotes.
    """
    return re.sub(r"(?<=\s)(?=[#;])", "''", shlex.join(command).replace("%", "%%"))


def _section(name: str, options: dict[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in options.items()), ""])
