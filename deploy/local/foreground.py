"""supervisord in this very process, in the foreground: its children's output goes to our stdout, whatever that is."""

from __future__ import annotations

import os
import signal
import socket
from collections import defaultdict
from pathlib import Path
from typing import Final, Self

from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

STDOUT: Final = 1
_LONGEST_LINE: Final = 2**20


def supervise(configuration: Path) -> None:
    """Start the processes of *configuration*, restart those that end, and stop all on SIGTERM, SIGINT or SIGHUP.

    Returns when the last one has ended.
    """
    options = ServerOptions()
    options.realize(["--nodaemon", "--configuration", str(configuration)], doc="")
    options.first, options.test = True, False
    try:
        _Foreground(options).main()
    except asyncore.ExitNow:  # how supervisord says that all are stopped
        return


class _Foreground(Supervisor):  # type: ignore[misc]  # supervisor is not typed
    """supervisord forwards output to files it opens by name, which a socket on stdout does not allow; so this takes it
    from the events that supervisord sends to its plugins."""

    def runforever(self) -> None:
        output = LineForwarder(STDOUT)
        events.subscribe(events.ProcessLogEvent, lambda event: output.take(event.process.config.name, event.data))
        for ended in (events.ProcessStateExitedEvent, events.ProcessStateStoppedEvent, events.ProcessStateBackoffEvent):
            events.subscribe(ended, lambda event: output.end(event.process.config.name))
        with SignalWakeup() as wakeup:
            self.options.get_socket_map()[wakeup.fileno()] = wakeup
            try:
                super().runforever()
            finally:
                del self.options.get_socket_map()[wakeup.fileno()]


class LineForwarder:
    """Writes what processes print to a file descriptor, line by line, so that lines of two are never mixed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rests: defaultdict[str, bytes] = defaultdict(bytes)
        self._closed = False

    def take(self, name: str, data: bytes) -> None:
        """The process *name* has printed *data*."""
        lines, newline, rest = (self._rests.pop(name, b"") + data).rpartition(b"\n")
        self._write(lines + newline)
        if len(rest) > _LONGEST_LINE:
            self._write(rest + b"\n")
        elif rest:
            self._rests[name] = rest

    def end(self, name: str) -> None:
        """The process *name* has ended: what it left of a line is all there will be."""
        if rest := self._rests.pop(name, b""):
            self._write(rest + b"\n")

    def _write(self, data: bytes) -> None:
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
