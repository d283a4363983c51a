"""The JSON of the rules of a job: the same in a request, in its answer and in a record.

An answer repeats a rule as it was understood: what is empty or None is left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, post_load, validate

from mirror.errors import InvalidDigest, InvalidTemplate
from mirror.oci.digest import Digest
from mirror.oci.manifest import is_short_text
from mirror.oci.name_template import NameTemplate, TagRewrite
from mirror.oci.platform import PlatformPattern
from mirror.oci.tag_pattern import compile_regex
from mirror.oci.version import VersionRange
from mirror.records.rule_fields import MOST_PATTERNS, Duration, Parsed, RuleSchema, parses, patterns
from mirror.records.rules import (
    ALL_PLATFORMS,
    ALL_REFERRERS,
    CANONICAL_TARGET,
    FOREIGN_LAYERS,
    ON_MOVES,
    OVERWRITES,
    PLATFORM_MODES,
    TAG_ORDERS,
    CopyOptions,
    LatestTags,
    PlatformRules,
    ReferrerRules,
    TagRename,
    TagRules,
    TargetRule,
)
from mirror.signatures.policy import MOST_KEYS, InvalidPolicy, SignaturePolicy

MOST_TARGETS: Final = 8
MOST_TYPES: Final = 50


class LatestTagsSchema(RuleSchema):
    count = fields.Integer(required=True, strict=True, validate=validate.Range(1, 100_000), metadata={"example": 3})
    by = fields.String(
        load_default="semver", validate=validate.OneOf(TAG_ORDERS), metadata={"description": "The order of the tags."}
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> LatestTags:
        return LatestTags(**data)


class TagRulesSchema(RuleSchema):
    """Which tags of a repository to mirror. A tag must pass every rule."""

    allow = patterns("Only tags that match one of these.")
    deny = patterns("No tags that match one of these.")
    semver = fields.String(
        load_default=None,
        allow_none=True,
        validate=[validate.Length(1, 1000), parses(VersionRange.parse)],
        metadata={"description": "A range of versions.", "example": ">=3.18 <4"},
    )
    latest = fields.Nested(LatestTagsSchema, load_default=None, allow_none=True)
    min_age = Duration(
        load_default=None,
        allow_none=True,
        metadata={
            "type": "string",
            "description": "How long ago the mirror must have seen the digest under the tag first.",
            "example": "72h",
        },
    )
    since = fields.AwareDateTime(
        format="iso",
        default_timezone=UTC,
        load_default=None,
        allow_none=True,
        metadata={"description": "Only images that say that they were created at or after this time."},
    )
    exclude_digests = fields.List(
        Parsed(Digest.parse, InvalidDigest, metadata={"type": "string"}),
        load_default=list,
        validate=validate.Length(max=1000),
        metadata={"description": "Never these digests, whatever tag shows them."},
    )
    media_types = fields.List(
        fields.String(validate=validate.Length(1, 255)),
        load_default=list,
        validate=validate.Length(max=20),
        metadata={"description": "Only manifests or indexes of these types."},
    )
    max_tags = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(1),
        metadata={"description": "Refuse the whole selection if more tags are chosen."},
    )
    max_bytes = fields.Integer(
        load_default=None,
        allow_none=True,
        strict=True,
        validate=validate.Range(0),
        metadata={"description": "Refuse the whole selection if more bytes must be copied."},
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> TagRules:
        lists = ("allow", "deny", "exclude_digests", "media_types")
        return TagRules(**{**data, **{name: tuple(data[name]) for name in lists}})


class PlatformRulesSchema(RuleSchema):
    """Which platforms to mirror, and what becomes of the index."""

    chosen = fields.List(
        Parsed(PlatformPattern.parse, metadata={"type": "string", "example": "linux/amd64"}),
        data_key="only",
        attribute="only",
        load_default=list,
        validate=validate.Length(max=MOST_PATTERNS),
        metadata={"description": "`os/architecture[/variant][:os_version]`. The version is a glob."},
    )
    mode = fields.String(
        load_default="all",
        validate=validate.OneOf(PLATFORM_MODES),
        metadata={
            "description": "`all` copies everything. `sparse` keeps the index, with the chosen children only. "
            "`rewrite` makes a new index of them. `single` keeps the manifest of one platform."
        },
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> PlatformRules:
        if data["mode"] != "all" and not data["only"]:
            raise ValidationError({"only": [f"The mode '{data['mode']}' needs the platforms to choose."]})
        if data["mode"] == "single" and len(data["only"]) != 1:
            raise ValidationError({"only": ["The mode 'single' takes exactly one platform."]})
        return PlatformRules(tuple(data["only"]), data["mode"])


class TagRenameSchema(RuleSchema):
    regex = fields.String(required=True, validate=[validate.Length(1, 1000), parses(compile_regex)])
    to = fields.String(required=True, validate=validate.Length(max=128), metadata={"example": "\\1"})

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> TagRename:
        if problems := _problem("to", lambda: TagRewrite.parse(**data)):
            raise ValidationError(problems)
        return TagRename(**data)


class _Replacement(Schema):
    from_ = fields.String(required=True, data_key="from", validate=validate.Length(1, 255))
    to = fields.String(required=True, validate=validate.Length(max=255))


class TargetRuleSchema(RuleSchema):
    """How the names of targets are made."""

    template = fields.String(load_default=CANONICAL_TARGET.template, metadata={"example": "team/{name}:{tag}"})
    strip_prefix = fields.String(
        load_default="",
        validate=validate.Length(max=255),
        metadata={"description": "Leading components that the repository loses.", "example": "library"},
    )
    replace = fields.List(
        fields.Nested(_Replacement),
        load_default=list,
        validate=validate.Length(max=20),
        metadata={"description": "Texts to replace in the repository, everywhere and in this order."},
    )
    tag = fields.Nested(
        TagRenameSchema,
        load_default=None,
        allow_none=True,
        metadata={"description": "How the tag is rewritten: the part that `regex` (RE2) matches becomes `to`."},
    )
    tag_suffix = fields.String(
        load_default="",
        validate=validate.Length(max=128),
        metadata={"description": "What the tag gets at its end.", "example": "-mirrored"},
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> TargetRule:
        if problems := _problem("template", lambda: NameTemplate.parse(data["template"])) or _useless(data):
            raise ValidationError(problems)
        return TargetRule(**{**data, "replace": tuple((one["from_"], one["to"]) for one in data["replace"])})


def _problem(field: str, check: Callable[[], object]) -> dict[str, list[str]]:
    """Return the message of a failed check for its field. Empty if it does not fail."""
    try:
        check()
    except InvalidTemplate as error:
        return {field: [f"{error.message}. {error.hint}"]}
    except ValueError as error:
        return {field: [f"{error}."]}
    return {}


def _useless(rule: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the fields of a rule for targets that cannot have an effect, or only a wrong one."""
    used = NameTemplate.parse(rule["template"]).fields
    found = _problem("tag_suffix", lambda: TagRewrite.require_part(rule["tag_suffix"]))
    for field in ("tag", "tag_suffix"):
        if rule[field] and "tag" not in used:
            found[field] = ["It has no effect, because the template has no {tag}."]
    for field in ("strip_prefix", "replace"):
        if rule[field] and not used & {"repository", "name"}:
            found[field] = ["It has no effect, because the template has neither {repository} nor {name}."]
    return found


class _ReferrersField(fields.Field[ReferrerRules]):
    """``true``, ``false``, or a list of artifact types."""

    def _serialize(self, value: ReferrerRules | None, *_: Any, **__: Any) -> bool | list[str]:
        if value is None:
            return True
        return list(value.types) or value.are_wanted

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> ReferrerRules:
        if isinstance(value, bool):
            return ReferrerRules(are_wanted=value)
        if not isinstance(value, list) or not 1 <= len(value) <= MOST_TYPES:
            raise ValidationError(f"Write true, false, or a list of 1 to {MOST_TYPES} artifact types.")
        if not all(is_short_text(one) and one for one in value):
            raise ValidationError("An artifact type is a short text of printable ASCII.")
        return ReferrerRules(types=tuple(value))


class SignaturePolicySchema(RuleSchema):
    """Who must have signed the image. Without such a signature it is not published."""

    keys = fields.List(
        fields.String(),
        load_default=list,
        validate=validate.Length(max=MOST_KEYS),
        metadata={
            "description": "Public keys in PEM, of which one must have signed: ECDSA on P-256 or P-384, Ed25519, or "
            "RSA of 2048 bits or more."
        },
    )
    identity = fields.String(
        load_default="",
        metadata={
            "description": "The subject of the signer's certificate, for signatures without a key. It needs `issuer`.",
            "example": "release@acme.example",
        },
    )
    identity_regex = fields.String(
        load_default="",
        metadata={
            "description": "An expression (RE2) that matches the whole subject, in the place of `identity`.",
            "example": "https://github\\.com/acme/app/\\.github/workflows/release\\.yml@refs/tags/v.*",
        },
    )
    issuer = fields.String(
        load_default="",
        metadata={
            "description": "The OpenID provider that has confirmed the identity.",
            "example": "https://token.actions.githubusercontent.com",
        },
    )
    trusted_root = fields.String(
        load_default="",
        metadata={
            "description": "The name of a file in `MIRROR_TRUSTED_ROOTS`, without `.json`. Without it: Sigstore's "
            "public root."
        },
    )

    @post_load
    def make(self, data: dict[str, Any], **_: Any) -> SignaturePolicy:
        try:
            return SignaturePolicy.parse(**data)
        except InvalidPolicy as error:
            raise ValidationError({error.field: [str(error)]}) from None


class CopyOptionsSchema(Schema):
    """The options of every copy."""

    platforms = fields.Nested(PlatformRulesSchema, load_default=ALL_PLATFORMS)
    overwrite = fields.String(
        load_default="if-different",
        validate=validate.OneOf(OVERWRITES),
        metadata={
            "description": "`never` leaves a target that exists alone. `always` publishes an unchanged image again."
        },
    )
    immutable = patterns("Tags that never move to another digest once the mirror has them.")
    on_move_upstream = fields.String(
        load_default="follow",
        validate=validate.OneOf(ON_MOVES),
        metadata={
            "description": "What becomes of a tag that its source has moved: it follows, or it stays as it is and its "
            "task reports that as `skipped` (`report`)."
        },
    )
    referrers = _ReferrersField(
        load_default=ALL_REFERRERS,
        metadata={
            "description": "Signatures, SBOMs and other manifests that refer to the image: all of them (`true`), none, "
            "or those of some artifact types.",
            "oneOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}],
        },
    )
    foreign_layers = fields.String(
        load_default="when-held",
        validate=validate.OneOf(FOREIGN_LAYERS),
        metadata={
            "description": "Layers that only their publisher may distribute: mirrored if the source has them, also "
            "from the URLs of their publisher (`include`), or never."
        },
    )
    signature = fields.Nested(SignaturePolicySchema, load_default=None, allow_none=True)


def options_of(loaded: Mapping[str, Any]) -> CopyOptions:
    """Make the value of the loaded fields of `CopyOptionsSchema`."""
    return CopyOptions(**{name: loaded[name] for name in _OPTIONS.fields} | {"immutable": tuple(loaded["immutable"])})


def load_options(document: Mapping[str, Any]) -> CopyOptions:
    """Read the options in a record or in a loaded request. Others of its fields are ignored. Raises ValidationError."""
    known = {name: document[name] for name in _OPTIONS.fields if name in document}
    return options_of(_OPTIONS.load(known))


def dump_options(options: CopyOptions) -> dict[str, Any]:
    """Return the options as an answer shows them, with all defaults."""
    dumped: dict[str, Any] = _OPTIONS.dump(options)
    return dumped


def dump_target(rule: TargetRule) -> dict[str, Any]:
    """Return a rule for targets as an answer shows it."""
    shown = {"template": rule.template, "strip_prefix": rule.strip_prefix, "tag_suffix": rule.tag_suffix}
    replace = [{"from": before, "to": after} for before, after in rule.replace]
    rename = {"regex": rule.tag.regex, "to": rule.tag.to} if rule.tag else None
    return {name: value for name, value in {**shown, "replace": replace, "tag": rename}.items() if value}


_OPTIONS: Final = CopyOptionsSchema()
OPTION_NAMES: Final = tuple(_OPTIONS.fields)
TAG_RULES: Final = TagRulesSchema()
TARGET_RULE: Final = TargetRuleSchema()
