"""flask-smorest's blueprint for this API: typed, with bodies read by `RequestParser` and documented errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import flask_smorest
from marshmallow import Schema

from service.http.bodies import RequestParser
from service.http.problems import MEDIA_TYPE, ProblemSchema

View = TypeVar("View", bound=Callable[..., Any])


class ApiBlueprint(Protocol):
    """The part of `flask_smorest.Blueprint` that is used here. That class has no types."""

    name: str

    def get(self, rule: str) -> Callable[[View], View]: ...
    def post(self, rule: str) -> Callable[[View], View]: ...
    def put(self, rule: str) -> Callable[[View], View]: ...
    def patch(self, rule: str) -> Callable[[View], View]: ...
    def delete(self, rule: str) -> Callable[[View], View]: ...

    def arguments(
        self, schema: type[Schema], *, location: str = "json", unknown: str | None = None, **documentation: Any
    ) -> Callable[[View], View]:
        """Pass the request's fields to the view as its next positional argument."""
        ...

    def response(
        self, status_code: int, schema: type[Schema] | None = None, **documentation: Any
    ) -> Callable[[View], View]:
        """Serialise what the view returns with *schema*."""
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
    """Document that the operation may fail with any of *statuses*, as problem details.

    An operation that needs a token may also fail with 429, for an address with too many wrong tokens.
    """
    documented_statuses = (*statuses, 429) if 401 in statuses else statuses

    def decorate(view: View) -> View:
        for status in documented_statuses:
            documented = blueprint.alt_response(status, schema=ProblemSchema, content_type=MEDIA_TYPE)
            view = documented(view)
        return view

    return decorate


def header(description: str, example: str) -> Mapping[str, Any]:
    """Describe a response header in OpenAPI's terms."""
    return {"description": description, "schema": {"type": "string"}, "example": example}
