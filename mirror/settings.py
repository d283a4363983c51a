"""The settings: environment variables, each also readable from a file named by the variable with ``_FILE`` added.

`Settings.load` reads all of them and lists every problem at once, unknown ``MIRROR_`` variables included.
docs/reference/settings.md is checked against the fields of `Settings`: the variable of a field is its name in capitals
after ``MIRROR_``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast
from urllib.parse import SplitResult, urlsplit

from environs import EnvValidationError, FileAwareEnv
from marshmallow import ValidationError

from mirror.errors import InvalidInput, InvalidReference
from mirror.oci.reference import Reference
from mirror.unknown_settings import unknown_settings

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Requirement = Callable[["Settings"], object]
"""Raises InvalidSettings if a process cannot work with the settings."""

MAX_PREFIX_BYTES: Final = 400
"""S3 keys end at 1 024 bytes; the longest key of our layout needs the rest."""
_UNITS: Final = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class InvalidSettings(Exception):
    """One or more settings cannot be used; ``problems`` maps each variable to what is wrong with it."""

    def __init__(self, problems: Mapping[str, list[str]]) -> None:
        self.problems = problems
        lines = [f"  {name}: {text}" for name, texts in sorted(problems.items()) for text in texts]
        super().__init__("these settings cannot be used:\n" + "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process of Image Mirror is told from outside.

    ``public_url`` is empty where it must be set and was not: off loopback. `require_servable` refuses that.
    """

    port: int = 8080
    host: str = "127.0.0.1"
    public_url: str = "http://127.0.0.1:8080"
    data_dir: Path = Path("data")
    redis_url: str | None = field(default=None, repr=False)
    s3_endpoint: str | None = None
    s3_bucket: str | None = None
    s3_region: str = "us-east-1"
    s3_prefix: str = ""
    s3_public_endpoint: str | None = None
    s3_sync_folder: Path | None = None
    serve_redirect: Literal["auto", "true", "false"] = "auto"
    admin_token: str | None = field(default=None, repr=False)
    anonymous_pull: bool = True
    insecure_registries: frozenset[str] = frozenset()
    allowed_networks: tuple[Network, ...] = ()
    registry_endpoints: Mapping[str, str] = field(default_factory=dict)
    token_realms: Mapping[str, frozenset[str]] = field(default_factory=dict)
    registry_concurrency: Mapping[str, int] = field(default_factory=dict)
    docker_config: Path | None = None
    workers: int = 1
    memory_budget: int = 256 * 2**20
    heartbeat_path: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    job_retention: int = 30 * 86400

    @classmethod
    def load(cls, *requirements: Requirement) -> Self:
        """Read the environment of this process; raises InvalidSettings with every problem there is.

        A requirement checks what the process needs beyond the rest, such as `require_stores`.
        """
        reader = _Reader()
        host = reader.read("MIRROR_HOST", _host, "127.0.0.1")
        port = reader.read("MIRROR_PORT", _number(1, 65535), 8080)
        loaded = cls(
            port=port,
            host=host,
            public_url=reader.read("MIRROR_PUBLIC_URL", _url, _own_url(host, port)),
            data_dir=reader.read("MIRROR_DATA_DIR", _path, Path("data")),
            redis_url=reader.read("MIRROR_REDIS_URL", _redis_url, None),
            s3_endpoint=reader.read("MIRROR_S3_ENDPOINT", _url, None),
            s3_bucket=reader.read("MIRROR_S3_BUCKET", _bucket, None),
            s3_region=reader.read("MIRROR_S3_REGION", str, "us-east-1"),
            s3_prefix=reader.read("MIRROR_S3_PREFIX", _prefix, ""),
            s3_public_endpoint=reader.read("MIRROR_S3_PUBLIC_ENDPOINT", _url, None),
            s3_sync_folder=reader.read("MIRROR_S3_SYNC_FOLDER", _folder, None),
            serve_redirect=reader.read("MIRROR_SERVE_REDIRECT", _serve_redirect, "auto"),
            admin_token=reader.read("MIRROR_ADMIN_TOKEN", _token, None),
            anonymous_pull=reader.read("MIRROR_ANONYMOUS_PULL", _boolean, is_loopback(host)),
            insecure_registries=reader.read("MIRROR_INSECURE_REGISTRIES", _registries, frozenset()),
            allowed_networks=reader.read("MIRROR_ALLOWED_NETWORKS", _networks, ()),
            registry_endpoints=reader.read("MIRROR_REGISTRY_ENDPOINTS", _endpoints, {}),
            token_realms=reader.read("MIRROR_TOKEN_REALMS", _realms, {}),
            registry_concurrency=reader.read("MIRROR_REGISTRY_CONCURRENCY", _concurrency, {}),
            docker_config=reader.read("MIRROR_DOCKER_CONFIG", _file, None),
            workers=reader.read("MIRROR_WORKERS", _number(1, 64), 1),
            memory_budget=reader.read("MIRROR_MEMORY_BUDGET", _size, 256 * 2**20),
            heartbeat_path=reader.read("MIRROR_HEARTBEAT_PATH", _path_in_folder, None),
            log_level=cast(
                "Any", reader.read("MIRROR_LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "info")
            ),
            log_format=cast("Any", reader.read("MIRROR_LOG_FORMAT", _one_of("auto", "json", "text"), "auto")),
            job_retention=reader.read("MIRROR_JOB_RETENTION", _retention, 30 * 86400),
        )
        if loaded.s3_endpoint and not loaded.s3_bucket:
            reader.problems.setdefault("MIRROR_S3_BUCKET", []).append("must be set when MIRROR_S3_ENDPOINT is")
        reader.finish(loaded, requirements)
        return loaded

    def require_servable(self) -> None:
        """What the API needs beyond the rest: nothing it answers may rest on a default off loopback."""
        problems: dict[str, list[str]] = {}
        if not is_loopback(self.host):
            if self.admin_token is None:
                problems["MIRROR_ADMIN_TOKEN"] = [f"must be set when MIRROR_HOST is {self.host}, not loopback"]
            if not self.public_url:
                problems["MIRROR_PUBLIC_URL"] = [f"must be set when MIRROR_HOST is {self.host}, not loopback"]
        if problems:
            raise InvalidSettings(problems)

    def require_stores(self) -> None:
        """Raise InvalidSettings where Redis or the bucket is not named. Only `make run` has embedded ones."""
        needed = {"MIRROR_REDIS_URL": self.redis_url, "MIRROR_S3_BUCKET": self.s3_bucket}
        if missing := [name for name, value in needed.items() if value is None]:
            raise InvalidSettings({name: ["must be set"] for name in missing})

    @property
    def public_host(self) -> str:
        """``host[:port]`` as clients write it before a repository."""
        return urlsplit(self.public_url).netloc

    @property
    def redirects_blobs(self) -> bool:
        """Whether ``/v2`` blob reads are answered with a presigned URL (the launcher says no for its embedded S3)."""
        return self.serve_redirect != "false"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_url(host: str, port: int) -> str:
    if not is_loopback(host):
        return ""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Reader:
    """Reads one variable after another and keeps the problems for the end."""

    def __init__(self) -> None:
        self.problems: dict[str, list[str]] = {}
        self._names: list[str] = []
        self._env = FileAwareEnv(eager=False, strip_whitespace=True)
        self._env.add_parser("setting", self._convert)

    @staticmethod
    def _convert(text: str, convert: Callable[[str], T], otherwise: T) -> T:
        return otherwise if text.strip() == "" else convert(text.strip())

    def read(self, name: str, convert: Callable[[str], T], otherwise: T) -> T:
        """The variable's value, or *otherwise* where it is unset, empty or (told by `finish`) wrong."""
        self._names.append(name)
        try:
            value = self._env.setting(name, "", convert=convert, otherwise=otherwise)
        except (OSError, ValueError):
            self.problems[name] = [f"{name}_FILE does not name a readable file"]
            return otherwise
        return otherwise if value is None else cast("T", value)

    def finish(self, loaded: Settings, requirements: Sequence[Requirement]) -> None:
        """Raise InvalidSettings with all that is wrong. A variable that cannot be read is not missing too."""
        try:
            self._env.seal()
        except EnvValidationError as error:
            for name, texts in cast("Mapping[str, list[str]]", error.error_messages).items():
                self.problems.setdefault(name, []).extend(texts)
        self.problems |= {name: [text] for name, text in unknown_settings(os.environ, self._names).items()}
        for requirement in requirements:
            try:
                requirement(loaded)
            except InvalidSettings as lacking:
                self.problems = {**lacking.problems, **self.problems}
        if self.problems:
            raise InvalidSettings(self.problems)


def _one_of(*known: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.lower() not in known:
            raise ValidationError(f"must be {', '.join(known[:-1])} or {known[-1]}")
        return text.lower()

    return convert


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValidationError("names the home folder of a user who has none") from None


def _number(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValidationError(f"must be a whole number from {least} to {most}")
        return int(text)

    return convert


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValidationError("must be true or false")
    return known[text.lower()]


def _serve_redirect(text: str) -> Literal["auto", "true", "false"]:
    if text.lower() == "auto":
        return "auto"
    return "true" if _boolean(text) else "false"


def _path_in_folder(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or not path.parent.is_dir():
        raise ValidationError("must be an absolute path in a folder that exists")
    return path


def _host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:-]+", text):
        raise ValidationError("must be a host name or an IP address")
    return text


def token_problem(text: str) -> str | None:
    """Why *text* cannot be an admin token, None if it can."""
    if len(text) >= 16 and re.fullmatch(r"[\x21-\x7e]+", text):
        return None
    return "must have at least 16 printable ASCII characters and no blanks"


def _token(text: str) -> str:
    if problem := token_problem(text):
        raise ValidationError(problem)
    return text


def _split_url(text: str, *schemes: str) -> SplitResult:
    starts = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in schemes and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, or a port that is no number
        usable = False
    if not usable:
        raise ValidationError(f"must be a URL that starts with {starts}")
    return parts


def _url(text: str) -> str:
    parts = _split_url(text, "http", "https")
    if not parts.hostname:
        raise ValidationError("must be a URL with a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValidationError("must be a URL without user, password, query or fragment")
    return text.rstrip("/")


def _redis_url(text: str) -> str:
    _split_url(text, "redis", "rediss", "unix")
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text):
        raise ValidationError("must be an S3 bucket name: 3 to 63 lower-case letters, digits, '.' and '-'")
    return text


def _prefix(text: str) -> str:
    prefix = text.strip("/")
    if not prefix:
        return ""
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ValidationError(f"must have at most {MAX_PREFIX_BYTES} bytes")
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) and part not in (".", "..") for part in prefix.split("/")):
        raise ValidationError("must be letters, digits, '.', '_' and '-', in components separated by '/'")
    return prefix


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValidationError("must name a file that exists")
    return path


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise ValidationError("must name a folder that exists")
    return path


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", text)
    if not match or match[2].upper() not in _UNITS:
        raise ValidationError("must be a size such as 256MiB or 1GiB")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size < 32 * 2**20:
        raise ValidationError("must be at least 32MiB")
    return size


def _retention(text: str) -> int:
    """Seconds, from a number of hours or days. 0 keeps jobs for good."""
    if text == "0":
        return 0
    match = re.fullmatch(r"([0-9]{1,5})\s*([hd])", text)
    seconds = int(match[1]) * {"h": 3600, "d": 86400}[match[2]] if match else 0
    if not 3600 <= seconds <= 3650 * 86400:
        raise ValidationError("must be from 1h to 3650d, such as 12h or 30d, or 0 to keep jobs")
    return seconds


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _registry(text: str, entry: int) -> str:
    """One registry, named as in a reference; the text is not repeated in the problem, for it may hold a password."""
    problem = f"entry {entry} is not a registry's host[:port]"
    try:
        reference = Reference.parse(f"{text}/any/name")
    except InvalidReference as error:
        raise ValidationError(f"{problem}: {error.reason}") from None
    except InvalidInput:
        raise ValidationError(problem) from None
    if reference.repository != "any/name":  # 'harbor' or 'host/team': read as a part of the repository
        raise ValidationError(f"{problem}: a host needs a dot or a port, and has no path")
    return reference.registry


def _registries(text: str) -> frozenset[str]:
    return frozenset(_registry(item, n) for n, item in enumerate(_items(text), 1))


def _networks(text: str) -> tuple[Network, ...]:
    networks = []
    for entry, item in enumerate(_items(text), 1):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError:
            raise ValidationError(
                f"entry {entry} is not a network such as 10.0.0.0/8 (the bits after the prefix must be 0)"
            ) from None
    return tuple(networks)


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for entry, item in enumerate(_items(text), 1):
        registry, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise ValidationError(f"entry {entry} is not written 'registry=value'")
        pairs.append((_registry(registry, entry), value))
    return pairs


def _one_each(text: str, convert: Callable[[str], T]) -> dict[str, T]:
    pairs = _pairs(text)
    values = {registry: convert(value) for registry, value in pairs}
    if len(values) != len(pairs):
        raise ValidationError("names a registry twice")
    return values


def _endpoints(text: str) -> dict[str, str]:
    return _one_each(text, _url)


def _concurrency(text: str) -> dict[str, int]:
    return _one_each(text, _number(1, 1000))


def _realms(text: str) -> dict[str, frozenset[str]]:
    realms: dict[str, frozenset[str]] = {}
    for registry, host in _pairs(text):
        realms[registry] = realms.get(registry, frozenset()) | {_host(host).lower()}
    return realms
