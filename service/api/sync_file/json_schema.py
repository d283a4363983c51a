"""The JSON Schema of `mirror.yaml` (draft 2020-12), made from the schemas that read it.

``python -m service.api.sync_file.json_schema`` prints it. docs/mirror.yaml.schema.json is a copy.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin, resolver

from mirror.records.rule_schemas import MOST_TARGETS, TargetRuleSchema
from mirror.records.schedule_schema import NAME_PATTERN
from mirror.schedules.sync_file_schema import SyncFileSchema

PATH: Final = "/schemas/mirror.yaml.json"
_EXAMPLE_URL: Final = "https://mirror.corp"
"""Where the copy in the docs says it is from."""
_END: Final = r"\Z"
"""The end of a text in Python's expressions. JSON Schema has those of JavaScript."""
_COMPONENTS: Final = "#/components/schemas/"
_ROOT: Final = "SyncFile"
_JOBS: Final = ("JobRequest", "ImageRequest")
_RULE: Final = "TargetRule"
_TARGET: Final = {"anyOf": [{"type": "string"}, {"$ref": f"{_COMPONENTS}{_RULE}"}]}
_TARGETS: Final = {
    "anyOf": [
        *_TARGET["anyOf"],
        {"type": "array", "minItems": 1, "maxItems": MOST_TARGETS, "items": _TARGET},
        {"type": "null"},
    ]
}


@cache
def mirror_yaml_schema(base_url: str) -> str:
    """Return the schema as JSON. *base_url* is that of the mirror that serves it."""
    spec = APISpec("", "", "3.1.0", plugins=[MarshmallowPlugin(schema_name_resolver=_name_of)])
    spec.components.schema(_ROOT, schema=SyncFileSchema)
    spec.components.schema(_RULE, schema=TargetRuleSchema)
    found = spec.to_dict()["components"]["schemas"]
    for name in _JOBS:
        found[name]["properties"]["target"].update(_TARGETS)
    del found["JobRequest"]["properties"]["plan"]  # a schedule cannot repeat one
    found[_ROOT]["properties"]["credentials"]["propertyNames"] = {"pattern": NAME_PATTERN}
    definitions = {name: _converted(schema) for name, schema in sorted(found.items())}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{base_url}{PATH}",
        "title": "mirror.yaml",
        "description": "Schedules of an Image Mirror, kept in a file.",
        **definitions.pop(_ROOT),
        "patternProperties": {"^x-": {"description": "For anchors. It is ignored."}},
        "$defs": definitions,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _converted(schema: Any) -> Any:
    """Turn a schema of OpenAPI, and all in it, into one of JSON Schema."""
    if isinstance(schema, list):
        return [_converted(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _converted(value) for name, value in schema.items()}
    if "$ref" in made:
        made["$ref"] = made["$ref"].replace(_COMPONENTS, "#/$defs/")
    if "example" in made:
        made["examples"] = [made.pop("example")]
    if "pattern" in made:
        made["pattern"] = f"^{made['pattern'].removesuffix(_END)}$"
    return _as_object(made) if made.get("type") == "object" else made


def _as_object(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object, which takes no other keys than its own."""
    if "maxLength" in schema:  # apispec writes so for a mapping
        schema["maxProperties"] = schema.pop("maxLength")
    return {**schema, "additionalProperties": False} if "properties" in schema else schema


def _name_of(schema: Any) -> str:
    """Return the name of a definition."""
    return resolver(schema).strip("_")


if __name__ == "__main__":
    sys.stdout.write(mirror_yaml_schema(_EXAMPLE_URL))
