"""Read the source file of ``skopeo sync --src yaml``.

Its meaning is that of ``cmd/skopeo/sync.go`` in skopeo 1.22. A repository without tags means all of them. The
expression of ``images-by-tag-regex`` is searched for in a tag. ``images-by-semver`` is a range of Masterminds/semver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from mirror.schedules.importers.document import NO_CERTIFICATES, NO_CREDENTIALS, Place, Section
from mirror.schedules.importers.drafts import Drafts, Image, registry_name
from mirror.schedules.importers.expressions import whole_match
from mirror.schedules.yaml_reader import Node

IGNORED: Final = {
    "*.credentials.username": NO_CREDENTIALS,
    "*.credentials.password": NO_CREDENTIALS,
    "*.tls-verify": "The mirror always checks certificates. If {registry} speaks plain HTTP, name it in "
    "MIRROR_INSECURE_REGISTRIES. If its CA is private, see 'Certificates' in the settings.",
    "*.cert-dir": NO_CERTIFICATES,
}


def read_skopeo(root: Node, drafts: Drafts) -> None:
    """Make a schedule of each registry."""
    top = Section(root, "", "", drafts.report)
    for registry in top.keys:
        with drafts.report.entry():
            section = top.section(registry, "*")
            _read_registry(section, registry, drafts)
            section.close(registry_name(registry))
    if top.keys:
        drafts.report.note(
            "The file names no targets, because skopeo takes them from its command line. Images keep the names of "
            "their sources, as with '--scoped'. All platforms are copied, as with '--all'."
        )


def _read_registry(section: Section, registry: str, drafts: Drafts) -> None:
    if section.flag("tls-verify") is False:
        section.ignore("tls-verify", IGNORED["*.tls-verify"].replace("{registry}", registry_name(registry)))
    images: list[Image] = []
    for place, document in (*_listed(section, registry), *_selected(section, registry)):
        with drafts.report.entry():
            images.append(drafts.image(place, document))
    if not any(key in section.keys for key in ("images", "images-by-tag-regex", "images-by-semver")):
        raise section.place.malformed("no images are named for this registry")
    drafts.add(registry, images)


def _listed(section: Section, registry: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the images that are named with their tags or digests, and the repositories of which all are wanted."""
    repositories = section.section("images")
    for repository in repositories.keys:
        name = f"{registry}/{repository}"
        if not (tags := repositories.texts(repository)):
            yield repositories.place_of(repository), {"source": {"repository": name}}
        for tag, (node, path) in zip(tags, repositories.items(repository), strict=True):
            separator = "@" if _is_digest(tag) else ":"
            yield Place(path, node.line, node.column), {"source": f"{name}{separator}{tag}"}


def _selected(section: Section, registry: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the repositories whose tags are chosen by a rule."""
    for key in ("images-by-tag-regex", "images-by-semver"):
        rules = section.section(key)
        for repository in rules.keys:
            text = rules.required(repository)
            rule = {"allow": [{"regex": whole_match(text)}]} if key == "images-by-tag-regex" else {"semver": text}
            yield rules.place_of(repository), {"source": {"repository": f"{registry}/{repository}"}, "tags": rule}


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidDigest:
        return False
    return True
