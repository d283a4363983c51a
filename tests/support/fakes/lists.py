"""Lists of tags and repositories, as registries page them: scripts for `FakeRegistry.script`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from tests.support.fakes.server import Reply, Request


class PagedReplies:
    """Serves *entries* at the path that ends with *path*, at most *most* in a page.

    The next page is named by a Link, as CNCF distribution does. *link* may change its target, and None sends no Link.
    """

    def __init__(self, path: str, field: str, entries: Sequence[Any], *, most: int = 1000, link: str = "{}") -> None:
        self.path = path
        self.field = field
        self.entries = list(entries)
        self.most = most
        self.link: str | None = link

    def __call__(self, request: Request, reply: Reply) -> Reply | None:
        if not request.path.endswith(self.path) or reply.status == 401:
            return None
        size = min(int(request.query.get("n", [str(self.most)])[0]), self.most)
        start = self.entries.index(request.query["last"][0]) + 1 if "last" in request.query else 0
        shown = self.entries[start : start + size]
        headers = {"Content-Type": "application/json"}
        if self.link is not None and start + size < len(self.entries):
            target = f"{request.path}?{urlencode({'last': shown[-1], 'n': size})}"
            headers["Link"] = f'<{self.link.format(target)}>; rel="next"'
        return Reply(200, headers, json.dumps({"name": "x", self.field: shown}).encode())


def tag_pages(tags: Sequence[Any], **options: Any) -> PagedReplies:
    """Serve a repository's tags."""
    return PagedReplies("/tags/list", "tags", tags, **options)


def catalog_pages(repositories: Sequence[Any], **options: Any) -> PagedReplies:
    """Serve a registry's catalog."""
    return PagedReplies("/v2/_catalog", "repositories", repositories, **options)


def body_of(status: int, document: Any, **headers: str) -> Reply:
    """Return a reply with a document, and with header names that have '_' instead of '-'."""
    return Reply(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(document).encode()
    )
