"""Lists that a scripted registry sends, and lists that must fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from mirror.errors import MirrorError
from tests.support.fakes.registry import FakeRegistry, Reply, Request

TAGS = [f"v1.{n}" for n in range(2500)]


def reply_with(
    registry: FakeRegistry, *documents: Any, link: Callable[[int], str] | None = None, path: str = "tags/list"
) -> None:
    """Serve one document after the other, with the Link that *link* returns for the number of the page."""
    pages = count()

    def script(request: Request, reply: Reply) -> Reply | None:
        if path not in request.path:
            return None
        number = next(pages)
        document = documents[min(number, len(documents) - 1)]
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return Reply(200, {"Link": link(number)} if link else {}, body)

    registry.script(script)


def failed_list(names: Iterator[str]) -> tuple[list[str], MirrorError]:
    """Read a list that must fail. Return what it yielded before, and the error."""
    read: list[str] = []
    with pytest.raises(MirrorError) as caught:
        read.extend(names)
    return read, caught.value
