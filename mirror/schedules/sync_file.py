"""Read `mirror.yaml`, the sync file. Pure: a text and an environment become schedules and credentials.

Every problem of a file is found at once, with its line and column. ``${NAME}`` is replaced in the secrets of
`credentials` only, and what it stands for is in no problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final

from marshmallow import ValidationError, fields

from mirror.errors import DocumentMalformed, FileProblem, SyncFileInvalid
from mirror.records.field_messages import Path, field_messages, pointer_of
from mirror.records.rule_schemas import OPTION_NAMES
from mirror.records.schedule import ScheduleDefinition
from mirror.registry.credentials import Credential
from mirror.schedules.sync_file_schema import OF_A_JOB, SECRETS, DefaultsSchema, SyncFileSchema
from mirror.schedules.yaml_reader import MOST_BYTES, Node, read_yaml

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LOGIN: Final = re.compile(r"(?<=://)[^\s/@]+(?=@)")
"""A login in a URL. A problem may repeat a name that somebody wrote as a URL."""
_MOST_VALUES: Final = 200_000
"""Values of all syncs, each with its defaults."""
_LONGEST_DETAIL: Final = 500
_MOST_MESSAGES: Final = 1000
"""Problems that are looked for. Each unknown key is compared with the known ones."""
_STRAY: Final = f"'${{' is replaced only in {', '.join(SECRETS)} of 'credentials'."
_MISSING: Final = fields.Field.default_error_messages["required"]
_OPTIONAL: Final = ("defaults", "credentials")
_UNSET: Final = "-"
"""Stands for a secret whose variable is not set, so that no other problem follows from it."""
_SCHEMA: Final = SyncFileSchema()
_OF_DEFAULTS: Final = frozenset(DefaultsSchema().fields) - {"job"}


@dataclass(frozen=True, slots=True)
class Sync:
    """One schedule of the file, and where it is."""

    definition: ScheduleDefinition
    index: int
    node: Node = field(repr=False)

    def problem(self, detail: str, *path: str | int) -> FileProblem:
        """Return a problem of the value at *path*, such as ``("job", "source")``."""
        return _problem(self.node, path, detail, ("syncs", self.index))


@dataclass(frozen=True, slots=True)
class NamedCredential:
    """A credential of the file. *registry* is a canonical name, or ``registry/namespace``."""

    name: str
    registry: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class SyncFile:
    """What a sync file says. There are no credentials if it was read without an environment."""

    syncs: tuple[Sync, ...]
    credentials: tuple[NamedCredential, ...]
    credentials_line: int | None = None


def decode(content: bytes) -> str:
    """Return the text of a file. Raises SyncFileInvalid."""
    if len(content) > MOST_BYTES:
        raise SyncFileInvalid([FileProblem(1, 1, f"The file has more than {MOST_BYTES >> 20} MiB.")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise SyncFileInvalid([FileProblem(line, column, "This is not UTF-8.")]) from None


def read_sync_file(text: str, environment: Mapping[str, str] | None = None) -> SyncFile:
    """Read a file with the variables of *environment*. Raises SyncFileInvalid with every problem.

    Without an environment the credentials are checked, but not made: only processes that read from registries need
    their secrets.
    """
    root = _read_root(text)
    problems = [_problem(root, path, _STRAY) for path in _stray_variables(root, ())]
    merged = _with_defaults(root)
    document = {key: node.plain() for key, node in _entries(merged).items() if _is_read(key, node)}
    problems += _expand_credentials(root, document, environment)
    try:
        loaded = _SCHEMA.load(document)
    except ValidationError as error:
        messages = islice(field_messages(error.messages_dict, _SCHEMA, "key"), _MOST_MESSAGES)
        problems += [_problem(merged, path, detail) for path, detail in messages]
        loaded = {}
    credentials = loaded.get("credentials") or {}
    problems += [*_repeated_names(root), *_repeated_registries(root, credentials)]
    if problems:
        raise SyncFileInvalid(problems)
    syncs = zip(loaded["syncs"], _items(_entries(merged)["syncs"]), strict=True)
    return SyncFile(
        tuple(Sync(definition, index, node) for index, (definition, node) in enumerate(syncs)),
        tuple(NamedCredential(name, *found) for name, found in credentials.items() if environment is not None),
        _entries(root)["credentials"].line if credentials else None,
    )


def _read_root(text: str) -> Node:
    try:
        root = read_yaml(text)
    except DocumentMalformed as error:
        raise SyncFileInvalid([FileProblem(error.line or 1, error.column or 1, f"{error.reason}.")]) from None
    if root.value is None:
        raise SyncFileInvalid([FileProblem(1, 1, "The file is empty. 'syncs: []' deletes what a file has made.")])
    if not isinstance(root.value, Mapping):
        raise SyncFileInvalid([_problem(root, (), f"This is {root.kind}. Write 'version: 1' and 'syncs:'.")])
    return root


def _is_read(key: str, node: Node) -> bool:
    """Whether an entry of the file means something. An optional one may be empty."""
    return not key.startswith("x-") and not (key in _OPTIONAL and node.value is None)


def _problem(node: Node, path: Path, detail: str, before: Path = ()) -> FileProblem:
    place = node.at(path)
    if detail == _MISSING:
        detail = f"The key '{path[-1]}' is missing."
    shown = _LOGIN.sub("…", detail)[:_LONGEST_DETAIL]
    return FileProblem(place.line, place.column, shown, pointer_of((*before, *path)))


def _entries(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and isinstance(node.value, Mapping) else {}


def _items(node: Node | None) -> tuple[Node, ...]:
    return node.value if node is not None and isinstance(node.value, tuple) else ()


def _stray_variables(node: Node, path: Path) -> Iterator[Path]:
    """Yield where a variable is written that nothing replaces."""
    if isinstance(node.value, str):
        if "${" in node.value:
            yield path
        return
    inner = _entries(node).items() or enumerate(_items(node))
    for key, below in inner:
        is_secret = len(path) == 2 and path[0] == "credentials" and key in SECRETS
        is_ignored = not path and str(key).startswith("x-")
        if not is_secret and not is_ignored:
            yield from _stray_variables(below, (*path, key))


def _with_defaults(root: Node) -> Node:
    """Return the file with the defaults in every sync. Each value keeps its place. Raises SyncFileInvalid."""
    entries = _entries(root)
    defaults, syncs = entries.get("defaults"), entries.get("syncs")
    if syncs is None or not _items(syncs):
        return root
    merged = tuple(_merge_sync(sync, _entries(defaults)) for sync in _items(syncs))
    if sum(sync.size for sync in merged) > _MOST_VALUES:
        detail = f"The syncs have, each with its defaults, more than {_MOST_VALUES} values."
        raise SyncFileInvalid([_problem(root, ("syncs",), detail)])
    return replace(root, value={**entries, "syncs": replace(syncs, value=merged)})


def _merge_sync(sync: Node, defaults: Mapping[str, Node]) -> Node:
    own = _entries(sync)
    of_sync = {key: node for key, node in defaults.items() if key in _OF_DEFAULTS}
    for name, other in (("cron", "every"), ("every", "cron")):
        if name in own and other not in own:
            of_sync.pop(other, None)
    job = {"job": _merge_job(own["job"], _entries(defaults.get("job")))} if "job" in own else {}
    return _merged(sync, of_sync, own, job)


def _merge_job(job: Node, defaults: Mapping[str, Node]) -> Node:
    """Merge defaults into a job. Options of an image go into each of its images."""
    own = _entries(job)
    of_job = {key: node for key, node in defaults.items() if key in OF_A_JOB}
    of_image = {key: node for key, node in defaults.items() if key in OPTION_NAMES and "plan" not in own}
    if "images" not in own:
        return _merged(job, {**of_job, **of_image}, own)
    images = tuple(_merged(image, of_image, _entries(image)) for image in _items(own["images"]))
    return _merged(job, of_job, own, {"images": _sized(own["images"], images)} if images else {})


def _merged(node: Node, *layers: Mapping[str, Node]) -> Node:
    """Return a mapping with the entries of all layers, of which the last one wins. Another value stays as it is."""
    if not isinstance(node.value, Mapping):
        return node
    return _sized(node, {key: below for layer in layers for key, below in layer.items()})


def _sized(node: Node, value: tuple[Node, ...] | Mapping[str, Node]) -> Node:
    inner = value.values() if isinstance(value, Mapping) else value
    return replace(node, value=value, size=1 + sum(below.size for below in inner))


def _expand_credentials(
    root: Node, document: dict[str, Any], environment: Mapping[str, str] | None
) -> Iterator[FileProblem]:
    """Replace the variables of the credentials in *document*. Yield those that cannot be replaced."""
    for path, secret in _secrets(root):
        _, name, key = path
        document["credentials"][name][key] = secret.text
        names = _VARIABLE.findall(secret.text)
        if "${" in _VARIABLE.sub("", secret.text):
            yield _problem(root, path, "Write a variable as '${NAME}', with letters, digits and '_'.")
        elif environment is not None:
            for variable in (variable for variable in names if not environment.get(variable)):
                yield _problem(root, path, f"The variable {variable} is not set, or is empty.")
            known = partial(_value_of, environment)
            document["credentials"][name][key] = _VARIABLE.sub(known, secret.text) or _UNSET


def _value_of(environment: Mapping[str, str], variable: re.Match[str]) -> str:
    return environment.get(variable[1], "")


def _secrets(root: Node) -> Iterator[tuple[tuple[str, str, str], Node]]:
    """Yield the secrets of the credentials. One is taken as it was written: ``0123`` is no number."""
    for name, node in _entries(_entries(root).get("credentials")).items():
        for key, secret in _entries(node).items():
            if key in SECRETS and isinstance(secret.value, str | int | float):
                yield ("credentials", name, key), secret


def _repeated_names(root: Node) -> Iterator[FileProblem]:
    first: dict[str, Node] = {}
    for index, sync in enumerate(_items(_entries(root).get("syncs"))):
        name = _entries(sync).get("name")
        if name is None or not isinstance(name.value, str):
            continue
        if (before := first.setdefault(name.value, name)) is not name:
            yield _problem(root, ("syncs", index, "name"), f"The sync in line {before.line} has this name already.")


def _repeated_registries(root: Node, credentials: Mapping[str, tuple[str, Credential]]) -> Iterator[FileProblem]:
    first: dict[str, str] = {}
    for name, (registry, _) in credentials.items():
        if (before := first.setdefault(registry, name)) != name:
            yield _problem(root, ("credentials", name, "registry"), f"The credential '{before}' is for {registry} too.")
