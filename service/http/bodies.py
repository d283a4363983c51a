"""Read bodies and query parameters. A body is JSON even if curl names another type. Unknown fields are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NoReturn

import marshmallow
from flask import Request
from webargs.core import is_json
from webargs.flaskparser import FlaskParser

from mirror.errors import quoted
from mirror.records.field_messages import field_messages, pointer_of
from service.http.problems import BodyMalformed, BodyTypeRefused, FieldProblem, ParametersRepeated, RequestInvalid

_CURL_DEFAULT: Final = "application/x-www-form-urlencoded"
"""The type that ``curl -d`` sends with every body. This API has no forms, so such a body is read as JSON."""
_PROBLEMS_SHOWN: Final = 20
_SHOWN_NAME: Final = 64


class RequestParser(FlaskParser):
    """Raises RequestInvalid with every field that is wrong, BodyMalformed or BodyTypeRefused."""

    def __init__(self) -> None:
        """Refuse unknown fields everywhere.

        A mistyped filter must not list everything, and a mistyped option must not queue a job.
        """
        super().__init__(unknown=marshmallow.RAISE)

    def load_json(self, req: Request, schema: marshmallow.Schema) -> Any:
        """Read the body, of at most `max_body` bytes if the schema says so. One with `is_optional` may be empty."""
        media_type = req.mimetype
        if media_type and media_type != _CURL_DEFAULT and not is_json(media_type):
            raise BodyTypeRefused(media_type)
        if limit := getattr(schema, "max_body", None):
            req.max_content_length = limit
        body = req.get_data(cache=True)
        if not body.strip():
            if getattr(schema, "is_optional", False):
                return {}
            raise BodyMalformed("it is empty")
        try:
            return json.loads(body, object_pairs_hook=_object, parse_constant=_refuse_constant)
        except RecursionError:
            raise BodyMalformed("it is nested too deeply") from None
        except ValueError:
            raise BodyMalformed("it is not JSON") from None

    def load_querystring(self, req: Request, schema: marshmallow.Schema) -> Any:
        """Read the query. Raises ParametersRepeated, unless the schema accepts any parameter."""
        if schema.unknown != marshmallow.EXCLUDE:
            require_single(req, req.args)
        return super().load_querystring(req, schema)

    def handle_error(
        self,
        error: marshmallow.ValidationError,
        req: Request,
        schema: marshmallow.Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        raise RequestInvalid(_first_problems(error.messages_dict, schema)) from None


def load_document(schema: marshmallow.Schema, document: Any) -> Any:
    """Load a document that was made from a body. Raises RequestInvalid with every field that is wrong."""
    try:
        return schema.load(document)
    except marshmallow.ValidationError as error:
        raise RequestInvalid(_first_problems({"json": error.messages}, schema)) from None


def merge_patch(target: Any, patch: Any) -> Any:
    """Return *target* changed by a JSON Merge Patch (RFC 7396). Neither is changed itself."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def require_single(request: Request, names: Iterable[str]) -> None:
    """Raise ParametersRepeated if the query has any of *names* more than once."""
    repeated = [name for name in names if len(request.args.getlist(name)) > 1]
    if repeated:
        raise ParametersRepeated(repeated[:_PROBLEMS_SHOWN])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Fields must be unique, because readers disagree on which one counts (RFC 8259, 4)."""
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise BodyMalformed(f"it has the field {quoted(name, _SHOWN_NAME)} more than once")
        fields[name] = value
    return fields


def _refuse_constant(name: str) -> NoReturn:
    """Refuse ``NaN`` and ``Infinity``, which Python reads but JSON does not have."""
    raise ValueError(name)


def _first_problems(by_location: Mapping[str, Any], schema: marshmallow.Schema) -> list[FieldProblem]:
    return list(islice(_problems(by_location, schema), _PROBLEMS_SHOWN))


def _problems(by_location: Mapping[str, Any], schema: marshmallow.Schema) -> Iterator[FieldProblem]:
    for location, messages in by_location.items():
        noun = "parameter" if location == "query" else "field"
        for path, detail in field_messages(messages, schema, noun):
            if location == "query":
                yield FieldProblem(detail, parameter=str(path[0]) if path else None)
            else:
                yield FieldProblem(detail, pointer=pointer_of(path))
