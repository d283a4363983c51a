"""``/v1/repositories``: the repositories of the mirror."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from service.api.repositories.schema import RepositoryPageSchema
from service.core import core
from service.http.blueprint import api_blueprint, header, refuses
from service.http.pagination import PageQuery, next_page

REPOSITORIES: Final = api_blueprint("repositories", "What the mirror holds, by repository.")


@REPOSITORIES.get("/v1/repositories")
@REPOSITORIES.arguments(PageQuery, location="query")
@REPOSITORIES.response(
    200, RepositoryPageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')}
)
@refuses(REPOSITORIES, 401, 422, 503)
def list_repositories(query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """List repositories in lexical order, each with its number of tags and the bytes they need."""
    found, following = core().index.repositories(limit=query["limit"], after=query["cursor"] or "")
    page = {"items": [asdict(entry) for entry in found], "next": following}
    return page, next_page("repositories.list_repositories", limit=query["limit"], after=following)
