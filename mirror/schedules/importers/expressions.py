"""What tools in Go write in their own way: durations, cron expressions and regular expressions.

Each function returns the mirror's form, with the same meaning. Each raises ValueError with a clause.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from mirror.oci.reference import is_tag

_UNITS: Final = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
_PART: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,9})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_MOST_SECONDS: Final = 3650 * 86400
_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9_/:-]|\\[./:_-]|\.(?=[a-z0-9]))+", re.ASCII)
_PIECES: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]|[()|]", re.DOTALL)


def read_duration(text: str) -> str:
    """Turn a duration such as ``1h30m`` into one of the mirror, such as ``90m``. Empty for zero."""
    if text in ("0", "+0"):
        return ""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("it is not a duration such as '60m' or '1h30m'")
    seconds = sum((Decimal(number) * _UNITS[unit] for number, unit in parts), Decimal(0))
    if seconds != seconds.to_integral_value() or seconds > _MOST_SECONDS:
        raise ValueError("the mirror takes whole seconds, and at most ten years")
    whole = int(seconds)
    if not whole:
        return ""
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("m", 60), ("s", 1)) if whole % size == 0)
    return f"{whole // size}{unit}"


def read_cron(text: str) -> dict[str, str]:
    """Turn an expression of robfig/cron into the fields of a timetable. Whether it has times is not checked."""
    fields = text.split()
    zone = ""
    if fields and fields[0].startswith(("CRON_TZ=", "TZ=")):
        zone = fields.pop(0).partition("=")[2]
    if fields and fields[0] == "@every":
        duration = read_duration("".join(fields[1:]))
        if not duration:
            raise ValueError("'@every' needs a duration")
        return {"every": duration}
    cron = " ".join("*" + field[1:] if field.startswith("?") else field for field in fields)
    return {"cron": cron, **({"time_zone": zone} if zone else {})}


def whole_match(regex: str) -> str:
    """Turn an expression that is searched for into one that matches the whole text."""
    if has_alternatives(regex) or regex.startswith(("?", "*", "+", "{")):
        return f".*(?:{regex}).*"
    head = "" if regex.startswith("^") else ".*"
    tail = "" if re.search(r"(?<!\\)(?:\\\\)*\$$", regex) else ".*"
    return f"{head}{regex}{tail}"


def tag_pattern(regex: str) -> dict[str, str]:
    """Return the pattern of tags for the regular expression ``^regex$``.

    Alternatives outside of parentheses bind weaker than the anchors: ``^3|4$`` begins with 3, or ends with 4.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]+", regex, re.ASCII) and is_tag(regex):
        return {"exact": regex}
    return {"regex": whole_match(f"^{regex}$") if has_alternatives(regex) else regex}


def literal_text(regex: str) -> str | None:
    """Return the only text that an expression matches, None if there are several.

    A dot before a letter or a digit, as in ``docker.io``, is read as a dot.
    """
    bare = regex.removeprefix("^").removesuffix("$")
    return bare.replace("\\", "") if _LITERAL.fullmatch(bare) else None


def has_alternatives(regex: str) -> bool:
    """Whether a ``|`` stands outside of parentheses. If that cannot be said: True."""
    depth = 0
    for piece in _PIECES.findall(regex):
        if piece == "|" and depth == 0:
            return True
        depth += {"(": 1, ")": -1}.get(piece, 0)
    return "\\Q" in regex
