"""The messages of marshmallow, with the keys that lead to each field."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import Schema, ValidationError, fields, validate

from mirror.records.field_messages import field_messages, pointer_of


class Inner(Schema):
    size = fields.Integer(strict=True)
    from_ = fields.String(data_key="from")


class Outer(Schema):
    one = fields.Nested(Inner)
    many = fields.List(fields.Nested(Inner))
    labels = fields.Dict(keys=fields.String(validate=validate.Length(max=3)), values=fields.String())
    named = fields.Dict(values=fields.Nested(Inner))


def messages(document: Any) -> list[tuple[str, str]]:
    schema = Outer()
    with pytest.raises(ValidationError) as refused:
        schema.load(document)
    return [(pointer_of(path), text) for path, text in field_messages(refused.value.messages, schema, "key")]


@pytest.mark.parametrize(
    ("document", "pointer", "text"),
    [
        ({"oen": 1}, "/oen", "Unknown key 'oen'. Did you mean 'one'? Allowed: one, many, labels, named."),
        ({"one": {"form": "a"}}, "/one/form", "Unknown key 'form'. Did you mean 'from'? Allowed: size, from."),
        ({"many": [{}, {"size": "a"}]}, "/many/1/size", "Not a valid integer."),
        ({"many": [{}, {"sise": 1}]}, "/many/1/sise", "Unknown key 'sise'. Did you mean 'size'? Allowed: size, from."),
        ({"labels": {"a/b": 1}}, "/labels/a~1b", "Not a valid string."),
        ({"labels": {"long": "a"}}, "/labels/long", "Longer than maximum length 3."),
        ({"labels": 3}, "/labels", "Not a valid mapping type."),
        (
            {"named": {"a": {"sise": 1}}},
            "/named/a/sise",
            "Unknown key 'sise'. Did you mean 'size'? Allowed: size, from.",
        ),
        ({"named": {"value": {"size": "a"}}}, "/named/value/size", "Not a valid integer."),
        ([], "", "Invalid input type."),
    ],
)
def test_a_message_has_the_keys_that_lead_to_its_field(document: Any, pointer: str, text: str) -> None:
    assert messages(document) == [(pointer, text)]
