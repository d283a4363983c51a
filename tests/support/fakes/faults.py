"""Faults of registries, as scripts for `FakeRegistry.script`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.support.fakes.server import Reply, Request

Script = Callable[[Request, Reply], Reply | None]
"""Receives a request and the correct reply. Returns another reply, or None to keep it."""
Change = Callable[[Reply], Reply]


def faulty(
    change: Change, *, path: str = "", method: str | None = None, server: str | None = None, times: int | None = None
) -> Script:
    """Change replies, at most *times* times.

    It changes those to requests of *method* to *server* whose path contains *path*.
    """
    counter, lock = itertools.count(1), threading.Lock()

    def script(request: Request, reply: Reply) -> Reply | None:
        if path not in request.path or method not in (None, request.method) or server not in (None, request.server):
            return None
        with lock:
            over = times is not None and next(counter) > times
        return None if over else change(reply)

    return script


def status(code: int, *, body: bytes = b"", **headers: str) -> Change:
    """Replace the whole reply. Write header names with '_' instead of '-'."""
    return lambda _: Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def header(name: str, value: str | None) -> Change:
    """Set a header to a wrong value, or remove it."""

    def change(reply: Reply) -> Reply:
        others = {key: old for key, old in reply.headers.items() if key != name}
        return replace(reply, headers=others if value is None else {**others, name: value})

    return change


def again(name: str, value: str) -> Change:
    """Add a header line after all others, also if the header is there already."""
    return lambda reply: replace(reply, more_headers=[*reply.more_headers, (name, value)])


def interim(*heads: bytes) -> Change:
    """Send interim responses (1xx) first, each given as status line and headers."""
    return lambda reply: replace(reply, before=b"".join(b"HTTP/1.1 %b\r\n\r\n" % head for head in heads))


def wrong_byte(position: int = 0) -> Change:
    """Flip one bit of the body and keep all headers."""

    def change(reply: Reply) -> Reply:
        body = bytearray(_whole(reply))
        body[position] ^= 1
        return replace(reply, body=bytes(body))

    return change


def cut_after(count: int) -> Change:
    """Close the connection after *count* bytes of the body."""
    return lambda reply: replace(reply, cut_after=count)


def reset_after(count: int) -> Change:
    """Reset the connection after *count* bytes of the body."""
    return lambda reply: replace(reply, cut_after=count, reset=True)


def hung_up() -> Change:
    """Close the connection without a response."""
    return lambda reply: replace(reply, status=0)


def too_long(more: bytes = b"and more") -> Change:
    """Send a body that is longer than the blob, with a Content-Length to match."""
    return lambda reply: _with_body(reply, _whole(reply) + more)


def body(content: bytes | Iterator[bytes]) -> Change:
    """Send another body with the same headers.

    Its Content-Length is correct, or missing for an iterator.
    """
    if isinstance(content, bytes):
        return lambda reply: _with_body(reply, content)
    return lambda reply: replace(reply, body=content, chunked=True)


def chunked() -> Change:
    """Send the body in chunks, without a Content-Length."""
    return lambda reply: replace(reply, chunked=True)


def held_until(release: threading.Event, after: int = 0) -> Change:
    """Send *after* bytes of the body, and the rest after *release* is set."""
    return lambda reply: replace(reply, hold=(after, release))


def both(*changes: Change) -> Change:
    """Apply several changes in order."""

    def change(reply: Reply) -> Reply:
        for each in changes:
            reply = each(reply)
        return reply

    return change


def _whole(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


def _with_body(reply: Reply, content: bytes) -> Reply:
    return replace(reply, body=content, headers={**reply.headers, "Content-Length": str(len(content))})
