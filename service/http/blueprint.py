"""flask-smorest's blueprint as this API uses it: typed, its bodies read by `RequestParser`, its refusals documented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import flask_smorest
from marshmallow import Schema

from service.http import problems
from service.http.bodies import RequestParser
from service.http.problem_schema import ProblemSchema

View = TypeVar("View", bound=Callable[..., Any])


class ApiBlueprint(Protocol):
    """What of `flask_smorest.Blueprint`, which has no types of its own, is used here."""

    name: str

    def get(self, rule: str) -> Callable[[View], View]: ...
    def post(self, rule: str) -> Callable[[View], View]: ...
    def put(self, rule: str) -> Callable[[View], View]: ...
    def delete(self, rule: str) -> Callable[[View], View]: ...

    def arguments(
        self, schema: type[Schema], *, location: str = "json", unknown: str | None = None, **documentation: Any
    ) -> Callable[[View], View]:
        """The request's fields as the view's next positional argument."""
        ...

    def response(
        self, status_code: int, schema: type[Schema] | None = None, **documentation: Any
    ) -> Callable[[View], View]:
        """What the view returns is dumped by *schema*."""
        ...

    def alt_response(
        self, status_code: int, *, schema: type[Schema] | None = None, **documentation: Any
    ) -> Callable[[View], View]: ...

    def doc(self, **documentation: Any) -> Callable[[View], View]: ...


def api_blueprint(name: str, description: str) -> ApiBlueprint:
    made = flask_smorest.Blueprint(name, name, description=description)
    made.ARGUMENTS_PARSER = RequestParser()
    blueprint: ApiBlueprint = made
    return blueprint


def refuses(blueprint: ApiBlueprint, *statuses: int) -> Callable[[View], View]:
    """Document that the operation may answer problem details with any of *statuses*.

    What needs a token may also answer 429, to an address that had too many wrong ones.
    """
    documented_statuses = (*statuses, 429) if 401 in statuses else statuses

    def decorate(view: View) -> View:
        for status in documented_statuses:
            documented = blueprint.alt_response(status, schema=ProblemSchema, content_type=problems.MEDIA_TYPE)
            view = documented(view)
        return view

    return decorate


def header(description: str, example: str) -> Mapping[str, Any]:
    """A response header in OpenAPI's terms."""
    return {"description": description, "schema": {"type": "string"}, "example": example}
