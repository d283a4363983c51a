"""Images and repositories."""

from __future__ import annotations

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from mirror.records.rules import PLATFORM_MODES
from service.api.jobs.task_schema import SignatureSchema
from service.http.pagination import DIGEST_EXAMPLE, PageQuery, page_schema

_IMAGE = "docker.io/library/alpine:3.20"
_REPOSITORY = "docker.io/library/alpine"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class ImageQuery(PageQuery):
    repository = fields.String(load_default=None, metadata={"example": _REPOSITORY})
    tag = fields.String(load_default=None, metadata={"example": "3.20"})
    source = fields.String(
        load_default=None, metadata={"description": "Images mirrored from this source, in any spelling."}
    )
    referrers = fields.Boolean(
        load_default=False,
        metadata={"description": "Also list the tags of referrers: `sha256-…`, and cosign's `sha256-….sig`."},
    )


class ImageSchema(Schema):
    """A tag as it stands in a list."""

    repository = fields.String(required=True, metadata={"example": _REPOSITORY})
    tag = fields.String(required=True, allow_none=True, metadata={"example": "3.20"})
    digest = fields.String(required=True, metadata={"example": DIGEST_EXAMPLE})
    media_type = fields.String(required=True, metadata={"example": _INDEX})
    size = fields.Integer(
        required=True,
        metadata={"description": "Bytes of manifests, configs and layers, each once.", "example": 48211034},
    )
    platforms = fields.List(fields.String(), required=True, metadata={"example": ["linux/amd64", "linux/arm64/v8"]})
    source = fields.String(required=True, allow_none=True, metadata={"example": _IMAGE})
    mirrored_at = fields.String(required=True, allow_none=True, metadata={"example": "2026-11-23T21:25:00Z"})
    checked_at = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "When a job last compared the tag with its source; null if none has since it was retagged, "
            "or since the index was rebuilt.",
            "example": "2026-11-29T02:30:11Z",
        },
    )
    job = fields.String(required=True, allow_none=True, metadata={"example": "job_01JDB2V3R8Y0N5Q7T9W1X3Z5B7"})
    source_digest = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What the source had when it was mirrored.", "example": DIGEST_EXAMPLE},
    )
    platforms_mode = fields.String(
        required=True,
        validate=validate.OneOf(PLATFORM_MODES),
        metadata={"description": "How its platforms were chosen. `platforms` are those that the mirror holds."},
    )


ImagePageSchema = page_schema("ImagePageSchema", ImageSchema)


class DescriptorSchema(Schema):
    digest = fields.String(required=True, metadata={"example": DIGEST_EXAMPLE})
    size = fields.Integer(required=True, metadata={"example": 3408729})
    media_type = fields.String(required=True, metadata={"example": "application/vnd.oci.image.config.v1+json"})


class LayerSchema(DescriptorSchema):
    foreign = fields.Boolean(
        required=True, metadata={"description": "Its media type says that registries do not distribute it."}
    )
    held = fields.Boolean(
        required=True,
        metadata={"description": "The mirror serves it. False for a foreign layer that its source did not serve."},
    )


class PlatformImageSchema(Schema):
    """One image manifest: the image itself, or one platform of an index."""

    digest = fields.String(required=True, metadata={"example": DIGEST_EXAMPLE})
    media_type = fields.String(required=True, metadata={"example": _MANIFEST})
    platform = fields.String(required=True, allow_none=True, metadata={"example": "linux/amd64"})
    size = fields.Integer(
        required=True, metadata={"description": "Bytes of manifest, config and held layers.", "example": 3640320}
    )
    config = fields.Nested(DescriptorSchema, required=True)
    layers = fields.List(fields.Nested(LayerSchema), required=True)


class ImageDetailSchema(ImageSchema):
    """One image in full."""

    signature = fields.Nested(
        SignatureSchema,
        required=True,
        allow_none=True,
        metadata={"description": "The signature that its job has verified; null if the job required none."},
    )
    manifest = fields.Dict(required=True, metadata={"description": "The manifest or index, as it is."})
    images = fields.List(
        fields.Nested(PlatformImageSchema),
        required=True,
        metadata={"description": "Every image manifest that is held for it."},
    )
    config = fields.Dict(
        required=True, allow_none=True, metadata={"description": "The image config; null for an index or an artifact."}
    )


class RetagRequestSchema(Schema):
    """Exactly one of the two."""

    source = fields.String(
        data_key="from",
        load_default=None,
        metadata={
            "description": "Another image of the mirror: `repository:tag` or `repository@digest`.",
            "example": "docker.io/library/redis:7",
        },
    )
    digest = fields.String(load_default=None, metadata={"description": "A digest that the same repository holds."})

    @validates_schema
    def exactly_one(self, data: dict[str, str | None], **_: object) -> None:
        if (data.get("source") is None) == (data.get("digest") is None):
            raise ValidationError("Give either 'from' or 'digest'.")


class TagSchema(Schema):
    """What a tag shows after it was moved."""

    repository = fields.String(required=True, metadata={"example": "team/redis"})
    tag = fields.String(required=True, metadata={"example": "stable"})
    digest = fields.String(required=True, metadata={"example": DIGEST_EXAMPLE})
    superseded_by = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Who changed the tag later and was faster; the tag then shows that change."},
    )
