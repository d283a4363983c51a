"""How bodies and query parameters are read: JSON whatever curl calls it, nothing unknown let pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

import marshmallow
from flask import Request
from webargs.core import is_json
from webargs.flaskparser import FlaskParser

from service.request_errors import BodyMalformed, BodyTypeRefused, FieldProblem, RequestInvalid

_CURL_DEFAULT: Final = "application/x-www-form-urlencoded"
"""What ``curl -d`` says of every body; here it is JSON all the same, since this API has no forms."""
_PROBLEMS_SHOWN: Final = 20


class RequestParser(FlaskParser):
    """Raises RequestInvalid with every field that is wrong, BodyMalformed or BodyTypeRefused."""

    def __init__(self) -> None:
        """Unknown fields are refused everywhere.

        A mistyped filter must not list everything, and a mistyped option must not queue a job.
        """
        super().__init__(unknown=marshmallow.RAISE)

    def load_json(self, req: Request, schema: marshmallow.Schema) -> Any:
        media_type = req.mimetype
        if media_type and media_type != _CURL_DEFAULT and not is_json(media_type):
            raise BodyTypeRefused(media_type)
        body = req.get_data(cache=True)
        if not body.strip():
            raise BodyMalformed("it is empty")
        try:
            return json.loads(body)
        except RecursionError:
            raise BodyMalformed("it is nested too deeply") from None
        except ValueError:
            raise BodyMalformed("it is not JSON") from None

    def handle_error(
        self,
        error: marshmallow.ValidationError,
        req: Request,
        schema: marshmallow.Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        raise RequestInvalid(list(_problems(error.messages_dict))[:_PROBLEMS_SHOWN]) from None


def _problems(by_location: Mapping[str, Any]) -> Iterator[FieldProblem]:
    for location, messages in by_location.items():
        for path, detail in _flat(messages):
            if location == "query":
                yield FieldProblem(detail, parameter=path[0] if path else None)
            else:
                yield FieldProblem(detail, pointer="".join(f"/{_escaped(part)}" for part in path))


def _flat(messages: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each message with the keys that lead to its field; marshmallow nests them as the data is nested."""
    if isinstance(messages, Mapping):
        for name, below in messages.items():
            yield from _flat(below, path if name == marshmallow.exceptions.SCHEMA else (*path, str(name)))
    elif isinstance(messages, list):
        for message in messages:
            yield from _flat(message, path)
    else:
        yield path, str(messages)


def _escaped(part: str) -> str:
    """RFC 6901, 3."""
    return part.replace("~", "~0").replace("/", "~1")
