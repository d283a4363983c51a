"""Fields of the rules of a job: durations, patterns, and texts that have a parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from marshmallow import Schema, ValidationError, fields, post_dump, validate

from mirror.oci.tag_pattern import TAG_PATTERN_KINDS, TagPattern

MOST_PATTERNS: Final = 100
_LONGEST_AGE: Final = timedelta(days=3650)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class RuleSchema(Schema):
    """A rule. Its answer leaves out what is empty."""

    @post_dump
    def leave_out_empty(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {name: value for name, value in data.items() if value not in (None, "", [], {})}


class Duration(fields.Field[timedelta]):
    """A whole number and a unit: ``90s``, ``15m``, ``72h``, ``3d`` or ``2w``."""

    def _serialize(self, value: timedelta | None, *_: Any, **__: Any) -> str | None:
        if value is None:
            return None
        seconds = int(value.total_seconds())
        unit = next(unit for unit in ("h", "m", "s") if seconds % _UNITS[unit] == 0) if seconds else "s"
        return f"{seconds // _UNITS[unit]}{unit}"

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> timedelta:
        number, unit = (value[:-1], value[-1:]) if isinstance(value, str) else ("", "")
        if unit not in _UNITS or not (number.isascii() and number.isdecimal()) or len(number) > 9:
            raise ValidationError("Write a whole number and a unit, as in '72h', '90m' or '3d'.")
        duration = timedelta(seconds=int(number) * _UNITS[unit])
        if duration > _LONGEST_AGE:
            raise ValidationError("It is longer than ten years.")
        return duration


class Parsed(fields.Field[Any]):
    """A text that *parse* turns into a value, and whose ``str`` is that text again."""

    def __init__(self, parse: Callable[[str], Any], problem: type[Exception] = ValueError, **more: Any) -> None:
        super().__init__(**more)
        self._parse = parse
        self._problem = problem

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str | None:
        return None if value is None else str(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if not isinstance(value, str):
            raise ValidationError("Not a valid string.")
        try:
            return self._parse(value)
        except self._problem as error:
            raise ValidationError(str(error)) from None


class TagPatternField(fields.Field[TagPattern]):
    """``{"glob": …}``, ``{"regex": …}`` or ``{"exact": …}``."""

    def _serialize(self, value: TagPattern | None, *_: Any, **__: Any) -> dict[str, str] | None:
        return {value.kind: value.text} if value else None

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> TagPattern:
        if not isinstance(value, Mapping) or len(value) != 1:
            raise ValidationError('Write one of {"glob": …}, {"regex": …} and {"exact": …}.')
        [(kind, text)] = value.items()
        if kind not in TAG_PATTERN_KINDS or not isinstance(text, str) or not 1 <= len(text) <= 1000:
            raise ValidationError('Write one of {"glob": …}, {"regex": …} and {"exact": …}.')
        try:
            return TagPattern.parse(kind, text)
        except ValueError as error:
            raise ValidationError(f"{error}.") from None


def parses(parse: Callable[[str], Any]) -> Callable[[str], None]:
    """Return a validator that accepts what *parse* accepts."""

    def validator(text: str) -> None:
        try:
            parse(text)
        except ValueError as error:
            raise ValidationError(f"{error}.") from None

    return validator


def patterns(description: str) -> Any:
    """Return a field for a list of patterns of tags."""
    kind = {"type": "string", "minLength": 1, "maxLength": 1000}
    pattern = {
        "type": "object",
        "properties": dict.fromkeys(TAG_PATTERN_KINDS, kind),
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    return fields.List(
        TagPatternField(metadata=pattern),
        load_default=list,
        validate=validate.Length(max=MOST_PATTERNS),
        metadata={"description": description},
    )
