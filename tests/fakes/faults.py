"""What registries do wrong, as scripts for `FakeRegistry.script`.

Each touches the replies whose server, method and path fit, *times* times and then no more.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fakes.server import Reply, Request

Script = Callable[[Request, Reply], Reply | None]
"""Given a request and the honest reply, another reply, or None for the honest one."""
Change = Callable[[Reply], Reply]


def faulty(
    change: Change, *, path: str = "", method: str | None = None, server: str | None = None, times: int | None = None
) -> Script:
    """Change the replies to requests whose path has *path* in it."""
    turn, lock = itertools.count(1), threading.Lock()

    def script(request: Request, reply: Reply) -> Reply | None:
        if path not in request.path or method not in (None, request.method) or server not in (None, request.server):
            return None
        with lock:
            over = times is not None and next(turn) > times
        return None if over else change(reply)

    return script


def status(code: int, *, body: bytes = b"", **headers: str) -> Change:
    """Another answer altogether; the headers' names are written with '_' for '-'."""
    return lambda _: Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def header(name: str, value: str | None) -> Change:
    """A header that lies, or is left out."""

    def change(reply: Reply) -> Reply:
        others = {key: old for key, old in reply.headers.items() if key != name}
        return replace(reply, headers=others if value is None else {**others, name: value})

    return change


def again(name: str, value: str) -> Change:
    """A header line that is sent after all others, whether the header stands already or not."""
    return lambda reply: replace(reply, more_headers=[*reply.more_headers, (name, value)])


def interim(*heads: bytes) -> Change:
    """Interim answers (1xx) before the real one, each given as status line and headers."""
    return lambda reply: replace(reply, before=b"".join(b"HTTP/1.1 %b\r\n\r\n" % head for head in heads))


def wrong_byte(position: int = 0) -> Change:
    """One bit of the body is another; all headers stay."""

    def change(reply: Reply) -> Reply:
        body = bytearray(_whole(reply))
        body[position] ^= 1
        return replace(reply, body=bytes(body))

    return change


def cut_after(count: int) -> Change:
    """The connection ends after *count* bytes of the body, in good order."""
    return lambda reply: replace(reply, cut_after=count)


def reset_after(count: int) -> Change:
    """The connection is reset after *count* bytes of the body."""
    return lambda reply: replace(reply, cut_after=count, reset=True)


def hung_up() -> Change:
    """The connection is closed without an answer."""
    return lambda reply: replace(reply, status=0)


def too_long(more: bytes = b"and more") -> Change:
    """A body that is longer than the blob, and a Content-Length that says so."""
    return lambda reply: _with_body(reply, _whole(reply) + more)


def body(content: bytes | Iterator[bytes]) -> Change:
    """Another body under the same headers; its Content-Length is its own, or untold for an iterator."""
    if isinstance(content, bytes):
        return lambda reply: _with_body(reply, content)
    return lambda reply: replace(reply, body=content, chunked=True)


def chunked() -> Change:
    """The body's length is not told."""
    return lambda reply: replace(reply, chunked=True)


def gated(gate: threading.Event, after: int = 0) -> Change:
    """*after* bytes of the body, then nothing until the gate is opened."""
    return lambda reply: replace(reply, gate=(after, gate))


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(reply: Reply) -> Reply:
        for each in changes:
            reply = each(reply)
        return reply

    return change


def _whole(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


def _with_body(reply: Reply, content: bytes) -> Reply:
    return replace(reply, body=content, headers={**reply.headers, "Content-Length": str(len(content))})
