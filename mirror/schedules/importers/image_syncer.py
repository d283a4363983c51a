"""Read the rules of image-syncer (AliyunContainerService): ``images.yaml``, or the older file with ``auth`` in it.

Its meaning is that of release 1.5. A source without a tag means all of them. Tags are separated by commas. A tag in
slashes is an expression, which is searched for in a tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import DocumentMalformed, InvalidInput
from mirror.oci.reference import Reference
from mirror.schedules.importers.document import NO_CREDENTIALS, PLAIN_HTTP, Section
from mirror.schedules.importers.drafts import Drafts, Image, registry_name
from mirror.schedules.importers.expressions import whole_match
from mirror.schedules.yaml_reader import Node

IGNORED: Final = {
    "*.username": NO_CREDENTIALS,
    "*.password": NO_CREDENTIALS,
    "*.insecure": PLAIN_HTTP,
    "auth.*.username": NO_CREDENTIALS,
    "auth.*.password": NO_CREDENTIALS,
    "auth.*.insecure": PLAIN_HTTP,
}
_VARIABLE: Final = re.compile(r"\$(?:\{|[A-Za-z_])")


@dataclass(frozen=True, slots=True)
class _Side:
    """The source or the destination of a rule: a repository, and the tags, the digest or the expression after it."""

    repository: str
    tags: tuple[str, ...] = ()
    digest: str = ""
    regex: str = ""

    @classmethod
    def parse(cls, text: str) -> _Side:
        """Split a text. The parts are not checked."""
        name, is_regex, regex = text.partition(":/")
        if is_regex:
            if not regex.endswith("/") or len(regex) < 2:
                raise ValueError("an expression for tags stands between slashes, as in 'repository:/v1.*/'")
            return cls(name, regex=regex[:-1])
        name, _, digest = text.partition("@")
        head, colon, tags = name.rpartition(":")
        if not colon or "/" in tags:
            return cls(name, digest=digest)
        return cls(head, () if digest else tuple(tags.split(",")), digest)


def read_image_syncer(root: Node, drafts: Drafts) -> None:
    """Make a schedule of the rules of each source registry."""
    top = Section(root, "", "", drafts.report)
    is_older_file = "images" in top.keys and set(top.keys) <= {"auth", "images"}
    rules = top.section("images") if is_older_file else top
    images: dict[str, list[Image]] = {}
    for key in rules.keys:
        with drafts.report.entry():
            if isinstance(rules.look(key).value, Mapping):  # of auth.yaml
                rules.section(key, "*").close(registry_name(key.partition("/")[0]))
                continue
            registry, found = _read_rule(rules, key, drafts)
            images.setdefault(registry, []).extend(found)
    if is_older_file:
        credentials = top.section("auth")
        for key in credentials.keys:
            credentials.section(key, "*").close(registry_name(key.partition("/")[0]))
    for registry, several in images.items():
        drafts.add(registry, several)


def _read_rule(rules: Section, key: str, drafts: Drafts) -> tuple[str, list[Image]]:
    """Return the source registry of a rule, and its images with each of their targets."""
    place = rules.place_of(key)
    written = rules.texts(key) if isinstance(rules.look(key).value, tuple) else [rules.required(key)]
    if not written or "" in written:
        raise place.malformed("a destination is empty")
    try:
        source = _Side.parse(key)
        registry = Reference.parse(source.repository).registry
        images = []
        for text in dict.fromkeys(written):
            if _VARIABLE.search(text):
                raise ValueError("a destination has a variable, and none is filled in. Write the name itself")
            target = _Side.parse(text)
            repository = drafts.target(target.repository, place).repository
            images += [drafts.image(place, one) for one in _documents(source, target, repository)]
    except InvalidInput as error:
        if isinstance(error, DocumentMalformed):
            raise
        raise place.malformed(f"the source is not a valid name: {error.reason}") from None
    except ValueError as error:
        raise place.malformed(str(error)) from None
    return registry, images


def _documents(source: _Side, target: _Side, repository: str) -> list[dict[str, Any]]:
    """Return what is to be copied. Raises ValueError if source and destination do not fit together."""
    if target.regex:
        raise ValueError("a destination cannot have an expression for tags")
    if target.digest and target.digest != source.digest:
        raise ValueError("a destination has no digest, or that of its source")
    if target.tags and len(target.tags) != max(len(source.tags), 1 if source.digest else 0):
        raise ValueError("source and destination must have the same number of tags")
    if source.digest:
        tag = f":{target.tags[0]}" if target.tags else ""
        return [{"source": f"{source.repository}@{source.digest}", "target": f"{repository}{tag}"}]
    if source.tags:
        pairs = zip(source.tags, target.tags or source.tags, strict=True)
        return [{"source": f"{source.repository}:{one}", "target": f"{repository}:{other}"} for one, other in pairs]
    rules = {"tags": {"allow": [{"regex": whole_match(source.regex)}]}} if source.regex else {}
    return [{"source": {"repository": source.repository}, "target": repository, **rules}]
