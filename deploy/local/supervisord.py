"""supervisord in this process: its configuration, and its output on our stdout."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from supervisor import events
from supervisor.loggers import Handler, LevelsByName, LogRecord
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

from deploy.local.data_folder import DataFolder, write_private
from deploy.local.output import STDOUT, LineForwarder, LineRenderer
from deploy.local.processes import Process, Stage


def write_configuration(folder: DataFolder, processes: Sequence[Process]) -> Path:
    """Write supervisord's configuration, which holds no secret.

    This process itself becomes supervisord.
    """
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
    # No [unix_http_server] and no [inet_http_server]: only signals control this supervisord.
    options = {
        "nodaemon": "true",
        "pidfile": "%(here)s/supervisord.pid",
        "logfile": os.devnull,
        "logfile_maxbytes": "0",
        "loglevel": "warn",
        "silent": "true",  # _SupervisorLog shows its log
        # Its clean-up deletes files by a name pattern in the temporary directory, which other programs use too.
        "nocleanup": "true",
        "minprocs": "1",
    }
    if os.getuid() == 0:
        options["user"] = "root"  # without it supervisord logs a critical message about running as root
    return _section("supervisord", options)


def _group_section(stage: Stage, members: Sequence[Process]) -> str:
    """Return the section of one stage.

    supervisord stops one group after the other, highest priority first (Supervisor.ordered_stop_groups_phase_1), and
    all processes of a group at once.
    """
    programs = ",".join(process.name for process in members)
    return _section(f"group:{stage.name.lower()}", {"programs": programs, "priority": str(int(stage))})


def _program_section(process: Process, folder: DataFolder) -> str:
    options = {
        "command": _command_line(_bound_to_parent(process, folder)),
        "numprocs": str(process.copies),
        "process_name": "%(program_name)s" + ("-%(process_num)d" if process.copies > 1 else ""),
        "autorestart": "false" if process.once else "true",
        # A process that ends within its first second is started again after 1 s, 2 s, 3 s, ... without giving up.
        "startsecs": "0" if process.once else "1",
        "startretries": "1000000",
        "stopsignal": "TERM",
        "stopwaitsecs": str(process.stop_within),
        # SIGTERM goes to the process alone, which stops its own children. SIGKILL goes to the whole process group.
        "stopasgroup": "false",
        "killasgroup": "true",
        # _Supervisor forwards the output.
        "redirect_stderr": "true",
        "stdout_logfile": "NONE",
        "stdout_events_enabled": "true",
    }
    return _section(f"program:{process.name}", options)


def _bound_to_parent(process: Process, folder: DataFolder) -> list[str]:
    """Return the command that runs the process with deploy/local/parent_death.py."""
    wrapper = [sys.executable, "-m", "deploy.local.parent_death", "--parent", str(os.getpid())]
    wrapper += ["--share", str(folder.children_lock)]
    if process.lock:
        wrapper += ["--lock", str(process.lock)]
    if process.outlives:
        wrapper += ["--outlive"]
    wrapper += [f"--only={pattern}" for pattern in process.only]
    wrapper += [f"--without={pattern}" for pattern in process.without]
    return [*wrapper, "--", *map(str, process.command)]


def _command_line(command: Sequence[str]) -> str:
    """Quote a command for supervisord.

    supervisord uses an INI parser, then ``%`` expansion, then a shell's quoting rules.

    The parser takes a comment sign after any blank, also a Unicode one, for the start of a comment, and has no escape.
    So this puts an empty pair of single quotes between the two. `shlex.join` has put every such blank in single quotes.
    """
    return re.sub(r"(?<=\s)(?=[#;])", "''", shlex.join(command).replace("%", "%%"))


def _section(name: str, options: dict[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in options.items()), ""])


def supervise(configuration: Path, renderer: LineRenderer) -> None:
    """Start the processes of *configuration* and restart those that end.

    Stop all on SIGTERM, SIGINT or SIGHUP.

    *renderer* renders what they print. Returns after the last one has ended.
    """
    options = ServerOptions()
    options.realize(["--nodaemon", "--configuration", str(configuration)], doc="")
    options.first, options.test = True, False
    try:
        _Supervisor(options, renderer).main()
    except asyncore.ExitNow:  # supervisord raises it after all processes have stopped
        return


class _Supervisor(Supervisor):  # type: ignore[misc]  # supervisor is not typed
    """supervisord whose children's output goes to our stdout.

    supervisord itself writes output to files that it opens by name, and a socket on stdout has no name to open. So this
    takes the output from the events that supervisord sends to its plugins.
    """

    def __init__(self, options: ServerOptions, renderer: LineRenderer) -> None:
        super().__init__(options)
        self._renderer = renderer

    def runforever(self) -> None:
        output = LineForwarder(STDOUT, self._renderer.render_line)
        self.options.logger.addHandler(_SupervisorLog(output, self._renderer))
        events.subscribe(events.ProcessLogEvent, lambda event: output.add(event.process.config.name, event.data))
        for ended in (events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent, events.ProcessStateBackoffEvent):
            events.subscribe(ended, lambda event: output.end(event.process.config.name))
        with _SignalWakeup() as wakeup:
            self.options.get_socket_map()[wakeup.fileno()] = wakeup
            try:
                super().runforever()
            finally:
                del self.options.get_socket_map()[wakeup.fileno()]


class _SupervisorLog(Handler):  # type: ignore[misc]  # supervisor is not typed
    """Shows supervisord's own log in the style of its processes' lines."""

    level = LevelsByName.WARN

    def __init__(self, output: LineForwarder, renderer: LineRenderer) -> None:
        super().__init__()
        self._output = output
        self._renderer = renderer

    def emit(self, record: LogRecord) -> None:
        level = "warning" if record.level < LevelsByName.ERRO else "error"
        self._output.write(self._renderer.render_event("supervisor", record.asdict()["message"], level))

    def reopen(self) -> None:
        """Do nothing, because there is no file."""

    remove = close = reopen


class _SignalWakeup:
    """Ends supervisord's poll as soon as a signal arrives.

    Python resumes a poll that a signal interrupts (PEP 475). Without this, supervisord would notice SIGTERM or the end
    of a child up to a second late, once for each stage of the shutdown. The methods are those of its dispatchers.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.settimeout(0)
        self._writer.settimeout(0)

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self._reader.recv(4096)

    def handle_error(self) -> None:
        """Do nothing. The next poll sees the same error again."""
