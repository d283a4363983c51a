"""Configurations of container clients, and the query that asks for one."""

from __future__ import annotations

import re
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, validate

from mirror.catalog.registries import MOST_REGISTRIES
from mirror.errors import InvalidReference
from mirror.oci.reference import normalise_registry

_LONGEST_LIST: Final = 8192
_CA_FILE: Final = re.compile(r"/[A-Za-z0-9._/-]{1,254}", re.ASCII)


class _RegistryList(fields.Field[tuple[str, ...]]):
    """Registries as ``host[:port]``, separated by commas."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[str, ...]:
        texts = [text.strip() for text in str(value)[: _LONGEST_LIST + 1].split(",")]
        if len(str(value)) > _LONGEST_LIST or len(texts) > MOST_REGISTRIES:
            raise ValidationError(f"More than {MOST_REGISTRIES} registries.")
        try:
            return tuple(dict.fromkeys(normalise_registry(text, text) for text in texts))
        except InvalidReference as error:
            raise ValidationError(f"Not a registry: {error.reason}.") from None


class ClientConfigQuery(Schema):
    registries = _RegistryList(
        load_default=None,
        metadata={
            "type": "string",
            "description": "Registries, separated by commas. By default all that the mirror holds images of.",
            "example": "docker.io,quay.io",
        },
    )
    fallback = fields.Boolean(
        load_default=True,
        metadata={"description": "Whether nodes may ask the original registry if the mirror fails."},
    )
    ca_file = fields.String(
        load_default=None,
        validate=validate.Regexp(_CA_FILE.pattern + r"\Z", error="Not an absolute path of letters, digits and '._/-'."),
        metadata={
            "description": "Path on the node of the CA that signed the mirror's certificate, if the node's system does "
            "not trust it.",
            "example": "/etc/ssl/corp-ca.pem",
        },
    )


class NodeFileSchema(Schema):
    path = fields.String(required=True, metadata={"example": "/etc/containerd/certs.d/docker.io/hosts.toml"})
    mode = fields.String(required=True, metadata={"example": "0644"})
    content = fields.String(required=True)
    install = fields.String(required=True, metadata={"description": "The part of the script that installs the file."})


class ClientConfigSchema(Schema):
    client = fields.String(required=True, metadata={"example": "containerd"})
    mirror = fields.String(required=True, metadata={"example": "https://mirror.corp"})
    registries = fields.List(
        fields.String(), required=True, metadata={"description": "Whose images are pulled from the mirror."}
    )
    fallback = fields.Boolean(required=True)
    files = fields.List(fields.Nested(NodeFileSchema), required=True)
    login = fields.String(
        required=True, allow_none=True, metadata={"description": "The command that logs in, if no file has the login."}
    )
    placeholders = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "What stands for secrets in files, and the command that computes it."},
    )
    restart = fields.String(
        required=True, allow_none=True, metadata={"description": "The command that makes a daemon read the files."}
    )
    script = fields.String(
        required=True, metadata={"description": "Does all of it. Run it as root on the node. It may be run again."}
    )
    when_the_mirror_is_away = fields.String(required=True)
    traps = fields.List(fields.String(), required=True, metadata={"description": "What is often overlooked."})
