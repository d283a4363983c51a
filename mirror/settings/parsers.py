"""The parsers of settings: from the text of a variable to a value.

Each raises ValueError. Its message is the rest of a sentence about the variable. It never repeats the text, because the
text may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from mirror.errors import InvalidInput, InvalidReference
from mirror.oci.reference import Reference

T = TypeVar("T")
Choice = TypeVar("Choice", bound=str)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LISTING_VENDORS: Final = ("docker-hub", "github", "gitlab", "harbor", "quay")
_MAX_PREFIX_BYTES: Final = 400
"""An S3 key has at most 1 024 bytes. The longest key of the bucket's layout needs the rest."""
_UNITS: Final = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def one_of(*known: Choice) -> Callable[[str], Choice]:
    def parse(text: str) -> Choice:
        for choice in known:
            if text.lower() == choice:
                return choice
        raise ValueError(f"must be {', '.join(known[:-1])} or {known[-1]}")

    return parse


def number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def serve_redirect(text: str) -> Literal["auto", "true", "false"]:
    if text.lower() == "auto":
        return "auto"
    return "true" if boolean(text) else "false"


def size(text: str) -> int:
    """Return bytes, from a number with a unit such as ``MiB``."""
    match = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", text)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError("must be a size such as 256MiB or 1GiB")
    count = int(match[1]) * _UNITS[match[2].upper()]
    if count < 32 * 2**20:
        raise ValueError("must be at least 32MiB")
    return count


def retention(text: str) -> int:
    """Return seconds, from a number of hours or days. ``0`` is 0."""
    if text == "0":
        return 0
    match = re.fullmatch(r"([0-9]{1,5})\s*([hd])", text)
    seconds = int(match[1]) * {"h": 3600, "d": 86400}[match[2]] if match else 0
    if not 3600 <= seconds <= 3650 * 86400:
        raise ValueError("must be from 1h to 3650d, such as 12h or 30d, or 0")
    return seconds


def path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("names the home folder of an unknown user") from None


def pem_path(text: str) -> Path:
    """Parse the path of a PEM file. Whether it exists is checked by the process that reads it."""
    if "-----BEGIN" in text:
        raise ValueError("must be the path of a PEM file, not its content")
    return path(text)


def path_in_folder(text: str) -> Path:
    found = Path(text)
    if not found.is_absolute() or not found.parent.is_dir():
        raise ValueError("must be an absolute path in a folder that exists")
    return found


def file(text: str) -> Path:
    found = path(text)
    if not found.is_file():
        raise ValueError("must name a file that exists")
    return found


def folder(text: str) -> Path:
    found = path(text)
    if not found.is_dir():
        raise ValueError("must name a folder that exists")
    return found


def host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:-]+", text):
        raise ValueError("must be a host name or an IP address")
    return text


def is_loopback(host: str) -> bool:
    """Whether *host* is ``localhost`` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(text: str) -> str:
    """Check an http or https URL. Returns it without a slash at the end."""
    parts = _split_url(text, "http", "https")
    if not parts.hostname:
        raise ValueError("must be a URL with a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, password, query or fragment")
    return text.rstrip("/")


def redis_url(text: str) -> str:
    _split_url(text, "redis", "rediss", "unix")
    return text


def _split_url(text: str, *schemes: str) -> SplitResult:
    starts = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and parts.port != 0
    except ValueError:  # brackets around something that is not an IPv6 address, or a port that is not a number
        usable = False
    if not usable:
        raise ValueError(f"must be a URL that starts with {starts}")
    return parts


def uri(text: str) -> str:
    """Check an absolute URI without a fragment, such as ``https://mirror.corp`` or ``urn:corp:mirror``."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!$-~]{1,500}", text):
        raise ValueError("must be an absolute URI without blanks and '#', such as https://mirror.corp/attestations")
    return text


def token(text: str) -> str:
    if problem := token_problem(text):
        raise ValueError(problem)
    return text


def tokens(text: str) -> tuple[str, ...]:
    """Parse tokens that commas or line breaks separate, each with the grammar of the admin token."""
    found = [item.strip() for item in re.split(r"[,\r\n]", text) if item.strip()]
    for entry, item in enumerate(found, 1):
        if problem := token_problem(item):
            raise ValueError(f"entry {entry} {problem}")
    return tuple(dict.fromkeys(found))


def token_problem(text: str) -> str | None:
    """Return why *text* cannot be a token, or None if it can."""
    if len(text) >= 16 and re.fullmatch(r"[\x21-\x7e]+", text):
        return None
    return "must have at least 16 printable ASCII characters and no blanks"


def bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text):
        raise ValueError("must be an S3 bucket name: 3 to 63 lower-case letters, digits, '.' and '-'")
    return text


def prefix(text: str) -> str:
    """Return the prefix of all keys, without slashes at its ends."""
    bare = text.strip("/")
    if not bare:
        return ""
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) and part not in (".", "..") for part in bare.split("/")):
        raise ValueError("must be letters, digits, '.', '_' and '-', in components separated by '/'")
    if len(bare) > _MAX_PREFIX_BYTES:
        raise ValueError(f"must have at most {_MAX_PREFIX_BYTES} bytes")
    return bare


def optional_registry(text: str) -> str | None:
    return None if text.lower() == "none" else _registry(text, 1)


def registries(text: str) -> frozenset[str]:
    return frozenset(_registry(item, n) for n, item in enumerate(_items(text), 1))


def networks(text: str) -> tuple[Network, ...]:
    found = []
    for entry, item in enumerate(_items(text), 1):
        try:
            found.append(ipaddress.ip_network(item))
        except ValueError:
            raise ValueError(
                f"entry {entry} is not a network such as 10.0.0.0/8 (the bits after the prefix must be 0)"
            ) from None
    return tuple(found)


def by_registry(parse_value: Callable[[str], T]) -> Callable[[str], dict[str, T]]:
    """Return a parser of pairs ``registry=value``, each registry once."""

    def parse(text: str) -> dict[str, T]:
        pairs = _pairs(text)
        values = {registry: parse_value(value) for registry, value in pairs}
        if len(values) != len(pairs):
            raise ValueError("names a registry twice")
        return values

    return parse


@dataclass(frozen=True, slots=True)
class ListingApi:
    """The API of a vendor that lists the repositories of a registry."""

    vendor: str
    url: str


def listing_api(text: str) -> ListingApi:
    """Parse ``vendor+url``, such as ``gitlab+https://gitlab.corp``."""
    vendor, plus, address = text.partition("+")
    if not plus or vendor not in LISTING_VENDORS:
        raise ValueError(f"must be written 'registry=vendor+url', with a vendor of {', '.join(LISTING_VENDORS)}")
    return ListingApi(vendor, url(address))


def realms(text: str) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for registry, realm in _pairs(text):
        found[registry] = found.get(registry, frozenset()) | {host(realm).lower()}
    return found


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for entry, item in enumerate(_items(text), 1):
        registry, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise ValueError(f"entry {entry} is not written 'registry=value'")
        pairs.append((_registry(registry, entry), value))
    return pairs


def _registry(text: str, entry: int) -> str:
    """Parse a registry as it is written in a reference."""
    problem = f"entry {entry} is not a registry's host[:port]"
    try:
        reference = Reference.parse(f"{text}/any/name")
    except InvalidReference as error:
        raise ValueError(f"{problem}: {error.reason}") from None
    except InvalidInput:
        raise ValueError(problem) from None
    if reference.repository != "any/name":  # 'harbor' or 'host/team' is parsed as a part of the repository
        raise ValueError(f"{problem}: a host needs a dot or a port, and has no path")
    return reference.registry


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
