"""supervisord in this very process, in the foreground: its children's output goes to our stdout, whatever that is."""

from __future__ import annotations

import os
import signal
import socket
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from supervisor import events
from supervisor.loggers import Handler, LevelsByName, LogRecord
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

from deploy.local.lines import LineRenderer

STDOUT: Final = 1
_LONGEST_LINE: Final = 2**20


def supervise(configuration: Path, renderer: LineRenderer) -> None:
    """Start the processes of *configuration*, restart those that end, and stop all on SIGTERM, SIGINT or SIGHUP.

    *renderer* shows what they print. Returns when the last one has ended.
    """
    options = ServerOptions()
    options.realize(["--nodaemon", "--configuration", str(configuration)], doc="")
    options.first, options.test = True, False
    try:
        _Foreground(options, renderer).main()
    except asyncore.ExitNow:  # how supervisord says that all are stopped
        return


class _Foreground(Supervisor):  # type: ignore[misc]  # supervisor is not typed
    """supervisord forwards output to files it opens by name, which a socket on stdout does not allow; so this takes it
    from the events that supervisord sends to its plugins."""

    def __init__(self, options: ServerOptions, renderer: LineRenderer) -> None:
        super().__init__(options)
        self._renderer = renderer

    def runforever(self) -> None:
        output = LineForwarder(STDOUT, self._renderer.line)
        self.options.logger.addHandler(_OwnLog(output, self._renderer))
        events.subscribe(events.ProcessLogEvent, lambda event: output.take(event.process.config.name, event.data))
        for ended in (events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent, events.ProcessStateBackoffEvent):
            events.subscribe(ended, lambda event: output.end(event.process.config.name))
        with SignalWakeup() as wakeup:
            self.options.get_socket_map()[wakeup.fileno()] = wakeup
            try:
                super().runforever()
            finally:
                del self.options.get_socket_map()[wakeup.fileno()]


class _OwnLog(Handler):  # type: ignore[misc]  # supervisor is not typed
    """Shows what supervisord itself logs, such as which process has died, like the lines of its processes."""

    level = LevelsByName.WARN

    def __init__(self, output: LineForwarder, renderer: LineRenderer) -> None:
        super().__init__()
        self._output = output
        self._renderer = renderer

    def emit(self, record: LogRecord) -> None:
        level = "warning" if record.level < LevelsByName.ERRO else "error"
        self._output.write(self._renderer.event("supervisor", record.asdict()["message"], level))

    def reopen(self) -> None:
        """Do nothing: there is no file."""

    remove = close = reopen


def verbatim(_: str, line: bytes) -> bytes:
    return line + b"\n"


class LineForwarder:
    """Writes what processes print to a file descriptor, line by line, so that lines of two are never mixed.

    *render* is passed the process and the line, and returns what is written of it.
    """

    def __init__(self, descriptor: int, render: Callable[[str, bytes], bytes] = verbatim) -> None:
        self._descriptor = descriptor
        self._render = render
        self._rests: defaultdict[str, bytes] = defaultdict(bytes)
        self._closed = False

    def take(self, name: str, data: bytes) -> None:
        """The process *name* has printed *data*."""
        *lines, rest = (self._rests.pop(name, b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        if rest:
            self._rests[name] = rest
        self.write(b"".join(self._render(name, line) for line in lines))

    def end(self, name: str) -> None:
        """The process *name* has ended: what it left of a line is all there will be."""
        if rest := self._rests.pop(name, b""):
            self.write(self._render(name, rest))

    def write(self, data: bytes) -> None:
        """Write all of it. Once nobody reads any more, what is printed is lost, and the product goes on."""
        rest = memoryview(data)
        while rest and not self._closed:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                self._closed = True


class SignalWakeup:
    """Ends supervisord's poll as soon as a signal arrives.

    A poll that a signal interrupts goes on (PEP 475), so that SIGTERM, and the end of a child, would otherwise be seen
    up to a second late, once for every stage of the shutdown. The methods are those of supervisord's dispatchers.
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
        """Nothing can go wrong that the next poll would not see again."""
