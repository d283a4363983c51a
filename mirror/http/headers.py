"""The headers of an answer, read with care: servers and proxies repeat, join and pad them.

A header that may stand once is read from its first line. RFC 9110, 5.3 lets only list headers stand several times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from urllib3 import HTTPHeaderDict

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest

_LISTS: Final = frozenset({"www-authenticate", "link", "content-encoding", "transfer-encoding"})
_BLANKS: Final = " \t"
_LENGTH_DIGITS: Final = 19


class Headers(Mapping[str, str]):
    """Headers by name, in any case of letters.

    The value of a list header is all its lines, joined. Any other is its first line that is not empty.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: HTTPHeaderDict) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        joined = self._fields[name]
        if "," not in joined or name.lower() in _LISTS:
            return joined.strip(_BLANKS)
        return next(filter(None, self.lines(name)), "")

    def get(self, name: str, default: Any = None) -> Any:
        """The header's value, or *default*. Most headers that are asked for are absent, which costs no exception."""
        return self[name] if name in self._fields else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def lines(self, name: str) -> list[str]:
        """Every line of the header, without the blanks around its value."""
        return [line.strip(_BLANKS) for line in self._fields.getlist(name)]


def elements(headers: Mapping[str, str], name: str) -> list[str]:
    """What a comma separates in all lines of a header, without empty elements."""
    lines = headers.lines(name) if isinstance(headers, Headers) else [headers.get(name, "")]
    return [text for line in lines for element in line.split(",") if (text := element.strip(_BLANKS))]


def only_element(headers: Mapping[str, str], name: str) -> str | None:
    """The header's value, where it is repeated with the same value each time. None for differing values, or none."""
    first = headers.get(name)
    if first is None:
        return None
    distinct = set(elements(headers, name))
    return distinct.pop() if len(distinct) == 1 else None


def announced_length(headers: Mapping[str, str]) -> int | None:
    """The Content-Length. None if there is none, or it is no number."""
    text = only_element(headers, "Content-Length") or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LENGTH_DIGITS else None


def declared_length(headers: Mapping[str, str]) -> int:
    """The Content-Length, 0 if there is none or it is no number."""
    return announced_length(headers) or 0


def media_type(headers: Mapping[str, str]) -> str | None:
    """The Content-Type in lower case, without parameters. None if there is none."""
    return headers.get("Content-Type", "").partition(";")[0].partition(",")[0].strip().lower() or None


def named_digest(headers: Mapping[str, str]) -> Digest | None:
    """The Docker-Content-Digest. None if there is none that can be used: it is a hint, and the bytes decide."""
    try:
        return Digest.parse(only_element(headers, "Docker-Content-Digest") or "")
    except InvalidDigest:
        return None


def codings(headers: Mapping[str, str]) -> list[str]:
    """The Content-Encoding, in lower case and in the order of application, without ``identity``."""
    return [name for element in elements(headers, "Content-Encoding") if (name := element.lower()) != "identity"]
