"""Read the resources of kube-image-keeper (enix): mirrors of version 2, and the cached images of version 1.

kube-image-keeper mirrors what pods run. Which images these are is in the ``status`` of a resource that
``kubectl get -o yaml`` shows. Without it, the images are those that the expressions of the filter name. They must
match a whole name, such as ``docker.io/library/nginx:1.27``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from mirror.errors import InvalidInput, quoted
from mirror.oci.reference import RepositoryPattern
from mirror.records.rule_fields import MOST_PATTERNS
from mirror.records.rule_schemas import MOST_TARGETS
from mirror.schedules.importers.document import Place, Section
from mirror.schedules.importers.drafts import Drafts, Image
from mirror.schedules.importers.expressions import has_alternatives, literal_text, tag_pattern
from mirror.schedules.yaml_reader import Node

_GROUP: Final = "kuik.enix.io/"
_MIRRORS: Final = ("ClusterImageSetMirror", "ImageSetMirror")
_PODS: Final = "The mirror does not see pods. It mirrors the images whatever runs them."
_CLEANUP: Final = "The mirror keeps an image until it is deleted, whether a pod uses it or not."
_PUSH: Final = "The mirror writes into its own bucket. For private sources see MIRROR_DOCKER_CONFIG."
_ROUTING: Final = "The mirror does not change pods. Configure the nodes to pull from it."
_KUBERNETES: Final = "Kubernetes keeps it. A schedule does not need it."
_STATUS: Final = "It is a record of kube-image-keeper. A schedule does not need it."
IGNORED: Final = {
    "metadata.*": _KUBERNETES,
    "spec.priority": _ROUTING,
    "spec.cleanup": _CLEANUP,
    "spec.filter.include[].label": _PODS,
    "spec.filter.include[].annotation": _PODS,
    "spec.filter.include[].namespace": _PODS,
    "spec.filter.exclude[].label": _PODS,
    "spec.filter.exclude[].annotation": _PODS,
    "spec.filter.exclude[].namespace": _PODS,
    "spec.mirrors[].priority": _ROUTING,
    "spec.mirrors[].cleanup": _CLEANUP,
    "spec.mirrors[].credentialSecret": _PUSH,
    "spec.expiresAt": _CLEANUP,
    "spec.retain": _CLEANUP,
    "status": _STATUS,
    "status.*": _STATUS,
}
_FOUND: Final = "The images are those that 'status' names. Images of later pods are not added: import again for them."
_EVERYTHING: Final = frozenset({".*", ".+"})
_HINT: Final = "Import what 'kubectl get -o yaml' shows of it: its 'status' names the images"


def read_kuik(documents: tuple[Node, ...], drafts: Drafts) -> None:
    """Make a schedule of each mirror, and one of all cached images."""
    cached: list[Image] = []
    for node, path in _resources(documents, drafts):
        with drafts.report.entry():
            resource = Section(node, path, "", drafts.report)
            kind = resource.required("kind")
            if not resource.required("apiVersion").startswith(_GROUP):
                raise resource.place.malformed("it is no resource of kube-image-keeper")
            metadata = resource.section("metadata")
            names = [metadata.text("namespace"), metadata.text("name")]
            if kind in _MIRRORS:
                images: list[Image] = []
                for place, document in _read_mirror(resource, drafts):
                    with drafts.report.entry():
                        images.append(drafts.image(place, document))
                drafts.add("-".join(filter(None, names)), images)
            elif kind == "CachedImage":
                spec = resource.section("spec")
                cached.append(drafts.image(spec.place, {"source": spec.required("sourceImage")}))
                spec.close()
            else:
                raise resource.place.malformed(
                    f"{quoted(kind, 60)} copies no images. It routes pods, or watches registries"
                )
            metadata.close()
            resource.close()
    if cached:
        drafts.add("cached-images", cached)


def _resources(documents: tuple[Node, ...], drafts: Drafts) -> Iterator[tuple[Node, str]]:
    """Yield the resources of all documents, also those in lists, with their paths."""
    for index, node in enumerate(documents):
        path = f"documents[{index}]" if len(documents) > 1 else ""
        if node.value is None:
            continue
        if node.at(["kind"]).value == "List":
            listed = Section(node, path, "", drafts.report)
            for key in ("apiVersion", "kind"):
                listed.required(key)
            listed.section("metadata").close()
            yield from listed.items("items")
            listed.close()
        else:
            yield node, path


def _read_mirror(resource: Section, drafts: Drafts) -> list[tuple[Place, dict[str, Any]]]:
    """Return what a mirror copies, with the place that each is from."""
    spec, status = resource.section("spec"), resource.section("status")
    targets = list(dict.fromkeys(_target(mirror, drafts) for mirror in spec.sections("mirrors", MOST_TARGETS)))
    if not targets:
        raise spec.place_of("mirrors").malformed("it names no mirror, so nothing is copied")
    if found := _found_images(status, drafts):
        spec.ignore("filter", _FOUND)
        spec.ignore("imageFilter", _FOUND)
    else:
        found = _filtered(spec)
    status.close()
    spec.close()
    return [(place, {**document, "target": target}) for place, document in found for target in targets]


def _target(mirror: Section, drafts: Drafts) -> str:
    """Return the template of targets: the path of a mirror, and the repository of the source below it."""
    registry, path = mirror.required("registry"), (mirror.text("path") or "").strip("/")
    try:
        prefix = RepositoryPattern.parse(f"{registry}/{path}/*" if path else f"{registry}/*")
    except InvalidInput as error:
        raise mirror.place.malformed(f"the mirror is not a valid name: {error.reason}") from None
    drafts.drop_host(prefix.registry)
    mirror.close()
    return f"{prefix.repository}/{{repository}}" if prefix.repository else "{repository}"


def _found_images(status: Section, drafts: Drafts) -> list[tuple[Place, dict[str, Any]]]:
    """Return the images that kube-image-keeper has found. Of their other keys, each is reported once."""
    images: list[tuple[Place, dict[str, Any]]] = []
    seen: set[str] = set()
    path = status.place_of("matchingImages").path
    for one in status.sections("matchingImages"):
        images.append((one.place, {"source": one.required("image")}))
        for key in one.keys:
            if key != "image" and key not in seen:
                seen.add(key)
                drafts.report.ignore(f"{path}[].{key}", one.place_of(key).line, _STATUS)
    return images


def _filtered(spec: Section) -> list[tuple[Place, dict[str, Any]]]:
    """Return the repositories that the expressions of a filter name. Raises DocumentMalformed for any other filter."""
    include: list[tuple[str, Place]] = []
    exclude: list[tuple[str, Place]] = []
    older, newer = spec.section("imageFilter"), spec.section("filter")
    for key, expressions in (("include", include), ("exclude", exclude)):
        place = older.place_of(key)
        expressions += [(text, place) for text in older.texts(key, MOST_PATTERNS)]
        for item in newer.sections(key, MOST_PATTERNS):
            if (text := item.text("image")) is not None:
                expressions.append((text, item.place))
            item.close()
    older.close()
    newer.close()
    if not include:
        raise spec.place_of("filter").malformed(f"every image that pods run is mirrored. {_HINT}")
    selections = [(place, _selection(regex, place)) for regex, place in include]
    for regex, place in exclude:
        _exclude(regex, place, selections)
    return selections


def _selection(regex: str, place: Place) -> dict[str, Any]:
    """Return the repository, or the wildcard, whose images an expression matches."""
    name, tag = _split(regex, place)
    prefix = re.fullmatch(r"(.+)/\.[*+]", name)
    repository = literal_text(prefix[1] if prefix else name)
    if repository is None or not (tag or prefix):
        reason = (
            "it names no single repository, as 'docker\\.io/library/nginx:.+' does, and no prefix, as 'quay\\.io/a/.*'"
        )
        raise place.malformed(f"{reason}. {_HINT}")
    source = f"{repository}/*" if prefix else {"repository": repository}
    rules = {} if tag in _EVERYTHING or not tag else {"tags": {"allow": [tag_pattern(tag)]}}
    return {"source": source, **rules}


def _exclude(regex: str, place: Place, selections: list[tuple[Place, dict[str, Any]]]) -> None:
    """Leave tags out of the selections."""
    name, tag = _split(regex, place)
    repository = None if name in _EVERYTHING else literal_text(name)
    if tag in _EVERYTHING or not tag or (repository is None and name not in _EVERYTHING):
        raise place.malformed(f"the mirror leaves out tags, and no repositories. {_HINT}")
    for _, document in selections:
        source = document["source"]
        if repository is None or source == {"repository": repository}:
            document.setdefault("tags", {}).setdefault("deny", []).append(tag_pattern(tag))
        elif isinstance(source, str) and repository.startswith(source.removesuffix("*")):
            raise place.malformed(f"the mirror cannot leave out tags of one repository below a prefix. {_HINT}")


def _split(regex: str, place: Place) -> tuple[str, str]:
    """Split an expression into the part for the name and the part for the tag, which may be empty."""
    if has_alternatives(regex):
        raise place.malformed("alternatives outside of parentheses are not supported. Write an item for each")
    bare = regex.removeprefix("^").removesuffix("$")
    colon = bare.find(":", bare.rfind("/") + 1)
    return (bare, "") if colon < 0 else (bare[:colon], bare[colon + 1 :])
