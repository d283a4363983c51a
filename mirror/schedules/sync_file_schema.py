"""The form of `mirror.yaml`: what `mirror.schedules.sync_file` loads, and what its JSON Schema describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from mirror.records.job_request import JobRequestSchema
from mirror.records.rule_schemas import OPTION_NAMES
from mirror.records.schedule_schema import NAME_PATTERN
from mirror.registry.credentials import Credential, credential_key, is_header_token
from mirror.schedules.definition import ScheduleRequestSchema

VERSION: Final = 1
MOST_SYNCS: Final = 2_000
MOST_CREDENTIALS: Final = 500
OF_A_JOB: Final = ("priority", "on_error", "atomic")
"""Defaults that a job takes. The others, `OPTION_NAMES`, are those of each image of a job."""
SECRETS: Final = ("username", "password", "identity_token", "registry_token")
"""The fields of a credential in which ``${NAME}`` is replaced."""
_TIMES: Final = ("cron", "every")
_HOW_TO_LOG_IN: Final = "Write 'username' and 'password', or 'identity_token', or 'registry_token'."
_JOB: Final = JobRequestSchema().fields
_SCHEDULE: Final = ScheduleRequestSchema().fields


class CredentialSchema(Schema):
    """A login at a registry. Loads as the registry's canonical name and a `Credential`."""

    registry = fields.String(
        required=True,
        validate=validate.Length(1, 255),
        metadata={
            "description": "The registry, or `registry/namespace`, that gets the credential.",
            "example": "docker.io",
        },
    )
    username = fields.String(validate=validate.Length(1, 1000), metadata={"example": "${HUB_USER}"})
    password = fields.String(
        validate=validate.Length(1, 65536),
        metadata={"description": "A password or an access token.", "example": "${HUB_TOKEN}"},
    )
    identity_token = fields.String(
        validate=validate.Length(1, 65536),
        metadata={"description": "An OAuth2 refresh token, which is exchanged at the token server."},
    )
    registry_token = fields.String(
        validate=validate.Length(1, 65536),
        metadata={"description": "A Bearer token that is sent to the registry itself."},
    )

    @validates_schema(skip_on_field_errors=True)
    def require_one_login(self, data: dict[str, Any], **_: Any) -> None:
        if set(data) - {"registry"} not in ({"username", "password"}, {"identity_token"}, {"registry_token"}):
            raise ValidationError(_HOW_TO_LOG_IN)
        if not is_header_token(data.get("registry_token", "token")):
            raise ValidationError({"registry_token": ["It cannot stand in a header."]})
        if credential_key(data["registry"]) is None:
            raise ValidationError({"registry": ["This is not the name of a registry, such as 'docker.io'."]})

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> tuple[str, Credential]:
        login = Credential(
            data.get("username", ""),
            data.get("password", ""),
            data.get("identity_token", ""),
            data.get("registry_token", ""),
        )
        return str(credential_key(data["registry"])), login


class JobDefaultsSchema(Schema):
    """Options that each job has unless it says otherwise."""

    class Meta:
        include: Mapping[str, fields.Field[Any]] = {name: _JOB[name] for name in (*OPTION_NAMES, *OF_A_JOB)}


class DefaultsSchema(Schema):
    """Fields that each sync has unless it says otherwise. Those of `job` are options of its job."""

    class Meta:
        include: Mapping[str, fields.Field[Any]] = {
            name: field for name, field in _SCHEDULE.items() if name not in ("name", "job")
        }

    job = fields.Nested(JobDefaultsSchema, metadata={"description": "Options that each job has."})

    @validates_schema(skip_on_field_errors=True, pass_original=True)
    def require_one_time(self, _: Any, original: Mapping[str, Any], **__: Any) -> None:
        if all(original.get(name) is not None for name in _TIMES):
            raise ValidationError({"every": ["Write either 'cron' or 'every', not both."]})


class SyncFileSchema(Schema):
    """Schedules of a mirror, kept in a file. Keys that begin with `x-` are for anchors, and are ignored."""

    version = fields.Integer(
        required=True,
        strict=True,
        validate=validate.OneOf([VERSION], error=f"This release reads 'version: {VERSION}'."),
        error_messages={"required": f"Write 'version: {VERSION}'.", "invalid": f"Write 'version: {VERSION}'."},
        metadata={"description": "The version of this form."},
    )
    defaults = fields.Nested(DefaultsSchema, metadata={"description": "What each sync has unless it says otherwise."})
    credentials = fields.Dict(
        keys=fields.String(validate=validate.Regexp(rf"{NAME_PATTERN}\Z", error="Write a name such as 'hub'.")),
        values=fields.Nested(CredentialSchema),
        validate=validate.Length(max=MOST_CREDENTIALS),
        metadata={
            "description": "Logins at registries, by a name of yours. `${NAME}` in one of its values is a variable of "
            "the environment of the workers."
        },
    )
    syncs = fields.List(
        fields.Nested(ScheduleRequestSchema),
        required=True,
        validate=validate.Length(max=MOST_SYNCS),
        error_messages={
            "required": "Write 'syncs', as a list. 'syncs: []' deletes every schedule that a file has made.",
            "null": "Write a list. 'syncs: []' deletes every schedule that a file has made.",
        },
        metadata={"description": "The schedules. One that is removed here is deleted."},
    )
