"""A request for a job and its JSON: images, repositories, wildcards, or a plan to apply.

The API takes one as a body, and a schedule holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any, ClassVar, Final

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from mirror.records.job import ON_ERRORS, PRIORITIES, USUAL, JobOptions
from mirror.records.rule_schemas import (
    MOST_TARGETS,
    OPTION_NAMES,
    TARGET_RULE,
    CopyOptionsSchema,
    TagRulesSchema,
    options_of,
)
from mirror.records.rules import ALL_TAGS, PLAIN_COPY, CopyOptions, TagRules, TargetRule

MOST_IMAGES: Final = 10_000
"""Images of one job. Only a window of them is queued at once, so that other jobs are served meanwhile."""

_SOURCE = {
    "description": "What to mirror, written as `docker pull` takes it, or a repository.",
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"repository": {"type": "string", "example": "docker.io/library/alpine"}},
            "required": ["repository"],
            "additionalProperties": False,
        },
    ],
    "example": "docker.io/library/redis:7",
}
_TARGET = {
    "description": "Where to keep it: `repository[:tag]`, or a template with the fields `{registry}` `{repository}` "
    "`{name}` `{tag}` `{digest12}` `{date}`, or an object with a `template`, `strip_prefix`, `replace`, `tag` and "
    "`tag_suffix`, or a list of those. Without it: the source's canonical name; without a tag: the source's tag.",
    "example": "library/redis:7",
}


_TAGS = {"description": "Which tags of the repository `source` to mirror. Without it, `source` names one image."}
_OF_ONE_IMAGE = ("source", "target", "tags", *OPTION_NAMES)


@dataclass(frozen=True, slots=True)
class _RepositorySource:
    """The source ``{"repository": name}``."""

    name: str


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One entry of a request: an image, or with *tags* or a wildcard a repository or many.

    *target* is the name to keep it under, or the rules that make its names. None stands for the canonical name.
    """

    source: str
    target: str | Sequence[TargetRule] | None = None
    tags: TagRules | None = None
    options: CopyOptions = PLAIN_COPY

    @property
    def targets(self) -> tuple[TargetRule, ...]:
        """The rules that make the names of its targets. Empty for the canonical name."""
        if self.target is None:
            return ()
        return (TargetRule(self.target),) if isinstance(self.target, str) else tuple(self.target)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request for a job: its entries, or the plan to apply, and what holds for all of them."""

    images: list[ImageRequest]
    options: JobOptions
    plan: str | None = None


class _RepositorySchema(Schema):
    """A source that is a repository, of which `tags` chooses some tags, or all."""

    repository = fields.String(required=True, metadata={"example": "docker.io/library/alpine"})


class _SourceField(fields.Field[Any]):
    """An image or a wildcard as a text, or `{"repository": …}`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str | _RepositorySource:
        if isinstance(value, str):
            return value
        if not isinstance(value, Mapping):
            raise ValidationError('Not a valid string, and not {"repository": …}.')
        return _RepositorySource(_RepositorySchema().load(value)["repository"])


class _TargetField(fields.Field[Any]):
    """A name, a template such as `team/{name}:{tag}`, a rule, or a list of those."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str | list[TargetRule]:
        if isinstance(value, str):
            return value
        rules = value if isinstance(value, list) else [value]
        if not 1 <= len(rules) <= MOST_TARGETS:
            raise ValidationError(f"Write 1 to {MOST_TARGETS} targets.")
        return [self._rule(rule) for rule in rules]

    @staticmethod
    def _rule(value: Any) -> TargetRule:
        if isinstance(value, str):
            return TargetRule(value)
        if not isinstance(value, Mapping):
            raise ValidationError("Write a name, or an object with a 'template'.")
        rule: TargetRule = TARGET_RULE.load(value)
        return rule


class ImageRequestSchema(CopyOptionsSchema):
    """One image of a job of several, or one repository."""

    class Meta:
        fields = _OF_ONE_IMAGE

    source = _SourceField(required=True, metadata=_SOURCE)
    target = _TargetField(allow_none=True, load_default=None, metadata=_TARGET)
    tags = fields.Nested(TagRulesSchema, allow_none=True, load_default=None, metadata=_TAGS)

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> ImageRequest:
        sleep(0)  # ten thousand of them take a second, in which the greenlets of other requests run
        return _image_request(data)


class JobRequestSchema(CopyOptionsSchema):
    """What to mirror: one image or repository as `source`, several as `images`, or what a `plan` has found.

    Loads as a `JobRequest`.
    """

    class Meta:
        fields = (*_OF_ONE_IMAGE, "images", "plan", "priority", "on_error", "atomic")

    max_body: ClassVar[int] = 4 * 2**20
    """Bytes: ten thousand images with long names."""

    source = _SourceField(metadata=_SOURCE)
    target = _TargetField(allow_none=True, metadata=_TARGET)
    tags = fields.Nested(TagRulesSchema, allow_none=True, metadata=_TAGS)
    images = fields.List(
        fields.Nested(ImageRequestSchema),
        validate=validate.Length(1, MOST_IMAGES),
        metadata={
            "description": "Several images at once, in the place of `source` and `target`; each has its own task."
        },
    )
    plan = fields.String(
        validate=validate.Length(1, 100),
        metadata={
            "description": "The plan to apply. Its digests are copied, also where tags have moved since.",
            "example": "plan_01JDB2V3R8Y0N5Q7T9W1X3Z5B7",
        },
    )
    priority = fields.String(
        load_default=USUAL.priority,
        validate=validate.OneOf(PRIORITIES),
        metadata={"description": "Tasks of a higher priority get more of the next free workers."},
    )
    on_error = fields.String(
        load_default=USUAL.on_error,
        validate=validate.OneOf(ON_ERRORS),
        metadata={"description": "`abort` cancels the rest of the job when an image fails."},
    )
    atomic = fields.Boolean(
        load_default=USUAL.atomic,
        metadata={"description": "Copy all images first, then move all tags together. If one fails, no tag moves."},
    )

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def require_one_image_or_several(self, _: Any, original: Any, **__: Any) -> None:
        if not isinstance(original, Mapping):
            return
        if "plan" in original:
            if beside := [name for name in (*_OF_ONE_IMAGE, "images") if name in original]:
                raise ValidationError({name: ["Not beside 'plan', which says what to copy."] for name in beside})
        elif "images" not in original:
            if "source" not in original:
                raise ValidationError({"source": ["Missing data for required field."]})
        elif beside := [name for name in _OF_ONE_IMAGE if name in original]:
            raise ValidationError({name: ["Not beside 'images'."] for name in beside})

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> JobRequest:
        sleep(0)  # a file has thousands of them
        options = JobOptions(priority=data["priority"], on_error=data["on_error"], atomic=data["atomic"])
        if "plan" in data:
            return JobRequest([], options, data["plan"])
        several: list[ImageRequest] | None = data.get("images")
        return JobRequest([_image_request(data)] if several is None else several, options)


def _image_request(data: Mapping[str, Any]) -> ImageRequest:
    """Make the value of one loaded entry. A repository without rules means all of its tags."""
    source, tags = data["source"], data.get("tags")
    if isinstance(source, _RepositorySource):
        source, tags = source.name, tags or ALL_TAGS
    return ImageRequest(source, data.get("target"), tags, options_of(data))
