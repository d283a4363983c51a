"""Read the configuration of flux-mirror (fluxcd): a ``Config`` of ``mirror.plugin.fluxcd.io``.

Its meaning is that of release 0.8. Tags are chosen in four steps: an expression that is searched for, a range of
Masterminds/semver, an order, and a limit, which is 1 unless it is given. Without ``overwrite`` a tag never moves.
"""

from __future__ import annotations

from typing import Any, Final

from mirror.schedules.importers.document import NO_CERTIFICATES, NO_CREDENTIALS, NO_SETTINGS, NO_UPLOADS, Section
from mirror.schedules.importers.drafts import Drafts, registry_name, schedule_name
from mirror.schedules.importers.expressions import read_duration, whole_match
from mirror.schedules.yaml_reader import Node

_VERSIONS: Final = (
    "mirror.plugin.fluxcd.io/v1beta2",
    "mirror.plugin.fluxcd.io/v1beta1",
    "mirror.fluxcd.io/v1alpha1",
)
_ORDERS: Final = {"semver": "semver", "alphabetical": "lexical", "numerical": "numeric"}
_NO_LIMIT: Final = 100_000
"""More tags than a listing has. The rule ``latest`` still drops the tags that have no place in its order."""
_NO_WHOLE_NUMBER: Final = "*[!0-9]*"
IGNORED: Final = {
    "hosts[].host": NO_SETTINGS,
    "hosts[].username": NO_CREDENTIALS,
    "hosts[].credential": NO_CREDENTIALS,
    "hosts[].provider": "Credentials of {registry} come from the file of MIRROR_DOCKER_CONFIG. Name a credential "
    "helper there.",
    "hosts[].tls": NO_CERTIFICATES,
    "hosts[].maxChunkSize": NO_UPLOADS,
}


def read_flux_mirror(root: Node, drafts: Drafts) -> None:
    """Make a schedule of each artifact, and of each chart in a registry."""
    top = Section(root, "", "", drafts.report)
    if top.required("apiVersion") not in _VERSIONS or top.required("kind") != "Config":
        raise top.place.malformed(f"it is not a Config of flux-mirror, in one of the versions {', '.join(_VERSIONS)}")
    for key, read in (("artifacts", _read_artifact), ("charts", _read_chart)):
        for item, path in top.items(key):
            with drafts.report.entry():
                entry = Section(item, path, f"{key}[]", drafts.report)
                read(entry, drafts)
                entry.close()
    for host in top.sections("hosts"):
        host.close(registry_name(host.look("host").text))
    top.close()


def _read_artifact(entry: Section, drafts: Drafts) -> None:
    source = entry.required("source")
    target = drafts.target(entry.required("destination"), entry.place_of("destination"))
    tags = _tag_rules(entry.section("selector"))
    document = {
        "source": {"repository": source},
        "target": target.repository,
        "referrers": entry.flag("includeReferrers") or False,
        "overwrite": "if-different" if entry.flag("overwrite") else "never",
    }
    if "verify" in entry.keys:
        document["signature"] = _signature(entry.section("verify"), tags, drafts)
    drafts.add(schedule_name(source), [drafts.image(entry.place, {**document, "tags": tags})])


def _read_chart(entry: Section, drafts: Drafts) -> None:
    """Read a chart. Releases before 0.1 also took charts from a registry."""
    source, name = entry.required("source"), entry.required("name")
    if not source.startswith("oci://"):
        reason = (
            "the mirror reads registries, and no Helm repositories. Push the chart to a registry, or keep flux-mirror"
        )
        raise entry.place_of("source").malformed(reason)
    place = entry.place_of("destination")
    destination = entry.required("destination").removeprefix("oci://")
    target = drafts.target(f"{destination.rstrip('/')}/{name}", place)
    repository = f"{source.removeprefix('oci://').rstrip('/')}/{name}"
    document = {
        "source": {"repository": repository},
        "target": target.repository,
        "overwrite": "if-different" if entry.flag("overwrite") else "never",
        "tags": {"semver": entry.text("version") or "*", "latest": _latest(entry, "semver")},
    }
    drafts.add(schedule_name(repository), [drafts.image(entry.place, document)])


def _tag_rules(selector: Section) -> dict[str, Any]:
    """Return the rules for tags that a selector is."""
    order = selector.text("sortBy") or "semver"
    if order not in _ORDERS:
        raise selector.place_of("sortBy").malformed(f"the order is one of {', '.join(_ORDERS)}")
    regex = selector.section("regex")
    if regex.text("extract"):
        reason = "the mirror compares whole tags, not a part of them. Choose the tags with 'semver' or another 'sortBy'"
        raise regex.place_of("extract").malformed(reason)
    pattern = regex.required("pattern") if "regex" in selector.keys else None
    regex.close()
    rules = {
        "allow": [{"regex": whole_match(pattern)}] if pattern else None,
        "deny": [{"glob": _NO_WHOLE_NUMBER}] if order == "numerical" else None,
        "semver": selector.text("semver"),
        "latest": _latest(selector, _ORDERS[order]),
    }
    selector.close()
    return {name: value for name, value in rules.items() if value}


def _latest(section: Section, order: str) -> dict[str, Any]:
    limit = section.number("limit")
    return {"count": 1 if limit is None else limit or _NO_LIMIT, "by": order}


def _signature(verify: Section, tags: dict[str, Any], drafts: Drafts) -> dict[str, Any]:
    """Return who must have signed. The age of a signature becomes the age of the image, as the mirror saw it."""
    if verify.required("provider") != "cosign":
        raise verify.place_of("provider").malformed("the provider is 'cosign'")
    place = verify.place_of("matchOIDCIdentity")
    issuers: set[str] = set()
    subjects: list[str] = []
    for identity in verify.sections("matchOIDCIdentity"):
        issuers.add(identity.required("issuer"))
        subjects.append(identity.required("subject"))
        identity.close()
    if not subjects:
        raise place.malformed("the mirror needs to know who must have signed. Name an issuer and a subject")
    if len(issuers) > 1:
        raise place.malformed("a job accepts identities of one issuer. Write an entry for each issuer")
    if age := verify.text("minAge"):
        try:
            duration = read_duration(age)
        except ValueError as error:
            raise verify.place_of("minAge").malformed(str(error)) from None
        tags.update({"min_age": duration} if duration else {})
        drafts.report.note(
            "'minAge' became 'min_age'. It counts from when the mirror first sees a digest under its tag, not from "
            "the signature."
        )
    verify.close()
    regex = subjects[0] if len(subjects) == 1 else "|".join(f"(?:{subject})" for subject in subjects)
    return {"identity_regex": whole_match(regex), "issuer": issuers.pop()}
