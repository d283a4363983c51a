"""Read the configuration of regsync (regclient): ``regsync.yml``, version 1.

Its meaning is that of ``cmd/regsync`` in regclient 0.11. Expressions are compiled as ``^expression$``. The sets of
``tagSets`` and ``tags`` are united. ``platform`` copies one manifest, ``platforms`` copies an index with some of its
children. The server copies what is missing when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import InvalidInput
from mirror.oci.reference import DEFAULT_TAG, RepositoryPattern
from mirror.oci.tag_pattern import compile_regex
from mirror.records.rule_fields import MOST_PATTERNS
from mirror.schedules.importers.document import (
    NO_CERTIFICATES,
    NO_CREDENTIALS,
    NO_SETTINGS,
    NO_UPLOADS,
    PLAIN_HTTP,
    Report,
    Section,
)
from mirror.schedules.importers.drafts import Drafts, check_timetable, registry_name, schedule_name
from mirror.schedules.importers.expressions import literal_text, read_cron, read_duration, tag_pattern
from mirror.schedules.yaml_reader import Node

_CONCURRENCY: Final = "Limit the requests to {registry} with MIRROR_REGISTRY_CONCURRENCY."
_QUOTA: Final = "The mirror reads the pull limits of registries, and its jobs wait for them by themselves."
_HISTORY: Final = "No backup tag is written. The mirror keeps what a tag showed before in the tag's history."
_HOOKS: Final = "The mirror runs no commands. Read the runs of the schedule instead."
_REFERRERS: Final = "Referrers are read where the image is, and are stored with its copy."
_ONLY_TYPES: Final = "Referrers are chosen by their type only. All of the type are mirrored."
_NO_CACHE: Final = "The mirror needs no such setting. What is unchanged costs one request for each tag."
_OF_BOTH: Final = {
    "backup": _HISTORY,
    "ratelimit.min": _QUOTA,
    "ratelimit.retry": _QUOTA,
    "referrerFilters[].annotations": _ONLY_TYPES,
    "referrerSource": _REFERRERS,
    "referrerTarget": _REFERRERS,
    "referrerSlow": _REFERRERS,
    "fastCheck": _NO_CACHE,
    "fastCopy": _NO_CACHE,
    "hooks.pre": _HOOKS,
    "hooks.post": _HOOKS,
    "hooks.unchanged": _HOOKS,
}
IGNORED: Final = {
    "creds[].registry": NO_SETTINGS,
    "creds[].user": NO_CREDENTIALS,
    "creds[].pass": NO_CREDENTIALS,
    "creds[].token": NO_CREDENTIALS,
    "creds[].credHelper": NO_CREDENTIALS,
    "creds[].credExpire": NO_CREDENTIALS,
    "creds[].credHost": NO_CREDENTIALS,
    "creds[].repoAuth": "The mirror asks for a token for each repository, always.",
    "creds[].tls": "If {registry} speaks plain HTTP, name it in MIRROR_INSECURE_REGISTRIES. Certificates are checked.",
    "creds[].scheme": PLAIN_HTTP,
    "creds[].regcert": NO_CERTIFICATES,
    "creds[].clientCert": NO_CERTIFICATES,
    "creds[].clientKey": NO_CERTIFICATES,
    "creds[].hostname": "Say where {registry} really is with MIRROR_REGISTRY_ENDPOINTS.",
    "creds[].pathPrefix": "Say where {registry} really is with MIRROR_REGISTRY_ENDPOINTS.",
    "creds[].mirrors": "The mirror reads from {registry} itself. To read from a proxy, use MIRROR_REGISTRY_ENDPOINTS.",
    "creds[].priority": "The mirror reads from {registry} itself.",
    "creds[].api": "The mirror speaks the distribution API with every registry.",
    "creds[].apiOpts": "The mirror speaks the distribution API with every registry.",
    "creds[].blobChunk": NO_UPLOADS,
    "creds[].blobMax": NO_UPLOADS,
    "creds[].reqPerSec": _CONCURRENCY,
    "creds[].reqConcurrent": _CONCURRENCY,
    "defaults.parallel": "Start more workers, with MIRROR_WORKERS or more replicas.",
    "defaults.blobLimit": "A worker never holds a whole blob. MIRROR_MEMORY_BUDGET limits its memory.",
    "defaults.cacheCount": _NO_CACHE,
    "defaults.cacheTime": _NO_CACHE,
    "defaults.skipDockerConfig": "The mirror reads no Docker configuration but that of MIRROR_DOCKER_CONFIG.",
    "defaults.userAgent": "The mirror sends its own User-Agent.",
    **{f"{section}.{key}": reason for section in ("defaults", "sync[]") for key, reason in _OF_BOTH.items()},
}
_MEDIA_TYPES: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
_MOST_REPOSITORIES: Final = 1000
_ONLY_REPOSITORIES: Final = "It has no effect on one image. It is for the types 'repository' and 'registry'."
_FLAGS: Final = ("referrers", "digestTags", "forceRecursive", "includeExternal")
_LAYOUTS: Final = ("ocidir://", "ocifile://")
_SOURCE_FIELD: Final = re.compile(r"\{\{\s*\.Sync\.Source\s*\}\}")
_CONSTRAINT: Final = re.compile(r"(>=|<=|>|<|=|\^|~)?v?([0-9]+(?:\.[0-9]+)*)(-[^+\s]+)?(?:\+\S*)?", re.ASCII)
_ALL_SUFFIXES: Final = "*-0-*"
"""A range of the mirror that allows every version, with any pre-release and any variant."""


@dataclass(frozen=True, slots=True)
class _Common:
    """What an entry and the defaults may both say. None is not said."""

    timetable: dict[str, str] | None
    flags: Mapping[str, bool]
    referrer_types: tuple[str, ...] | None
    media_types: frozenset[str]

    def over(self, defaults: _Common) -> _Common:
        """Return what is said here, and for the rest what the defaults say."""
        return _Common(
            self.timetable or defaults.timetable,
            {**defaults.flags, **self.flags},
            defaults.referrer_types if self.referrer_types is None else self.referrer_types,
            self.media_types or defaults.media_types,
        )


def read_regsync(root: Node, drafts: Drafts) -> None:
    """Make a schedule of each entry of ``sync``."""
    top = Section(root, "", "", drafts.report)
    if top.number("version") not in (None, 0, 1):
        raise top.place_of("version").malformed("only version 1 of regsync's configuration is known")
    if "sync" not in top.keys:
        raise top.place.malformed("there is no 'sync'. Is this a regsync.yml?")
    for key in top.keys:
        if key.startswith("x-"):
            top.take(key)  # a place for anchors. What they hold is where their aliases are
    section = top.section("defaults")
    defaults = _read_common(section, drafts.report)
    section.close()
    for item, path in top.items("sync"):
        with drafts.report.entry():
            _read_sync(Section(item, path, "sync[]", drafts.report), defaults, drafts)
    for entry in top.sections("creds"):
        entry.close(registry_name(entry.look("registry").text))
    top.close()


def _read_sync(entry: Section, defaults: _Common, drafts: Drafts) -> None:
    kind, source = entry.required("type"), entry.required("source")
    if source.startswith(_LAYOUTS):
        raise entry.place_of("source").malformed("an OCI layout on a disk is no source. Push it to a registry first")
    common = _read_common(entry, drafts.report).over(defaults)
    types = sorted(common.media_types) if common.media_types != _MEDIA_TYPES else []
    if kind == "image":
        requests = [_image_request(entry, source, drafts)]
        for key in ("tags", "tagSets", "repos"):
            entry.ignore(key, _ONLY_REPOSITORIES)
        if types:
            place = entry.place_of("mediaTypes")
            drafts.report.ignore(place.path, place.line, _ONLY_REPOSITORIES)
    elif kind in ("repository", "registry"):
        requests = _selections(entry, source, drafts, is_registry=kind == "registry")
        for request in requests if types else ():
            request["tags"] = {**request.get("tags", {}), "media_types": types}
    else:
        raise entry.place_of("type").malformed("the type is one of image, repository and registry")
    options = {**_options(common), **_platforms(entry)}
    images = [drafts.image(entry.place, {**request, **options}) for request in requests]
    name = schedule_name(f"{source}/*" if kind == "registry" else source)
    drafts.add(name, images, common.timetable, run_on_change=True)
    entry.close()


def _target(entry: Section, source: str) -> str:
    """Return the target as it was written, with the source in the place of ``{{ .Sync.Source }}``."""
    written = entry.look("target").text
    filled = _SOURCE_FIELD.sub(lambda _: source, written)
    entry.take("target")
    target = filled if filled != written and "{{" not in filled else entry.required("target")
    if target.startswith(_LAYOUTS):
        raise entry.place_of("target").malformed("the mirror writes into its bucket only, not to an OCI layout")
    return target


def _image_request(entry: Section, source: str, drafts: Drafts) -> dict[str, Any]:
    """Return the request for one image. Without a tag, the target has the tag ``latest``, whatever the source's is."""
    target = drafts.target(_target(entry, source), entry.place_of("target"))
    if target.digest:
        raise entry.place_of("target").malformed("a target is named by a tag, not by a digest")
    return {"source": source, "target": f"{target.repository}:{target.tag or DEFAULT_TAG}"}


def _selections(entry: Section, source: str, drafts: Drafts, *, is_registry: bool) -> list[dict[str, Any]]:
    """Return the requests for a repository or a registry: one for each set of rules that cannot be united."""
    place = entry.place_of("target")
    written = _target(entry, source)
    try:
        target = RepositoryPattern.parse(f"{written}/*" if is_registry else written)
    except InvalidInput as error:
        raise place.malformed(f"the target is not a valid name: {error.reason}") from None
    drafts.drop_host(target.registry)
    if is_registry:
        path = f"{target.repository}/{{repository}}" if target.repository else "{repository}"
        sources = _repositories(entry, source)
    else:
        path, sources = target.repository, [{"repository": source}]
        entry.ignore("repos", "regsync reads it for the type 'registry' only.")
    rules = _tag_rules(entry)
    return [{"source": one, "target": path, **({"tags": rule} if rule else {})} for one in sources for rule in rules]


def _repositories(entry: Section, host: str) -> list[Any]:
    """Return the sources that ``repos`` allows: repositories by name, and prefixes."""
    if "/" in host:
        raise entry.place_of("source").malformed("the source of the type 'registry' is a host, without a path")
    repos = entry.section("repos")
    denied, allowed = repos.texts("deny", MOST_PATTERNS), repos.texts("allow", _MOST_REPOSITORIES)
    repos.close()
    place = repos.place_of("deny")
    names = [_allowed(regex, index, repos) for index, regex in enumerate(allowed)] if allowed else ["*"]
    if denied and any(name.endswith("*") for name in names):
        raise place.malformed("the mirror cannot leave out repositories below a prefix. Name those it shall copy")
    names = [name for name in names if not any(_matches(regex, name, repos) for regex in denied)]
    if not names:
        raise place.malformed("it leaves out every repository that 'allow' names")
    return [f"{host}/{name}" if name.endswith("*") else {"repository": f"{host}/{name}"} for name in names]


def _allowed(regex: str, index: int, repos: Section) -> str:
    """Return the repository that an expression matches, or the prefix and ``/*``."""
    prefix = re.fullmatch(r"(.+)/\.[*+]", regex)
    name = literal_text(prefix[1] if prefix else regex)
    if name is None:
        reason = "the mirror chooses repositories by name ('team/app') or by prefix ('team/.*') only"
        raise repos.place_of("allow").malformed(f"{reason}. Name them instead of expression {index + 1}")
    return f"{name}/*" if prefix else name


def _matches(regex: str, name: str, repos: Section) -> bool:
    try:
        return compile_regex(f"^{regex}$").search(name) is not None
    except ValueError as error:
        raise repos.place_of("deny").malformed(str(error)) from None


def _tag_rules(entry: Section) -> list[dict[str, Any]]:
    """Return the rules for tags: of the sets that regsync unites, as few as have the same meaning."""
    sets = [_tag_set(one) for one in entry.sections("tagSets", MOST_PATTERNS)]
    if one := _tag_set(entry.section("tags")):
        sets.append(one)
    if sets and all(set(one) == {"allow"} for one in sets):
        return [{"allow": [pattern for one in sets for pattern in one["allow"]]}]
    if sets and all(set(one) == {"semver"} for one in sets):
        return [{"semver": " || ".join(one["semver"] for one in sets)}]
    return sets or [{}]


def _tag_set(section: Section) -> dict[str, Any]:
    ranges = []
    for text in section.texts("semverRange", MOST_PATTERNS):
        try:
            ranges += [_range(text)] if text else []
        except ValueError as error:
            raise section.place_of("semverRange").malformed(str(error)) from None
    rules = {
        "allow": [tag_pattern(regex) for regex in section.texts("allow", MOST_PATTERNS)],
        "deny": [tag_pattern(regex) for regex in section.texts("deny", MOST_PATTERNS)],
        "semver": " || ".join(ranges),
    }
    section.close()
    return {name: value for name, value in rules.items() if value}


def _range(text: str) -> str:
    """Turn a range of regsync into one of the mirror. Raises ValueError.

    regsync compares numbers: ``1.2`` is 1.2.0, ``~1`` is below 1.1.0. A range without ``=`` allows every suffix.
    """
    items: list[str] = []
    is_exact = False
    for part in text.split():
        found = _CONSTRAINT.fullmatch(part)
        if found is None:
            raise ValueError("it is not a range of regsync, such as '>=1.2 <2'")
        operator, numbers, suffix = found[1] or "=", found[2], found[3] or ""
        padded = numbers + ".0" * (2 - numbers.count("."))
        items.append(f"{operator}{padded}{suffix}")
        is_exact = is_exact or operator == "="
    return " ".join(items if is_exact else [*items, _ALL_SUFFIXES])


def _read_common(section: Section, report: Report) -> _Common:
    """Read what an entry and the defaults may both say. A schedule wins over an interval."""
    flags = {key: flag for key in _FLAGS if (flag := section.flag(key)) is not None}
    schedule, interval = _time(section, "schedule"), _time(section, "interval")
    if schedule and "cron" in schedule and "time_zone" not in schedule:
        report.note(
            "Cron expressions run in UTC. regsync takes the time zone of its host: set 'time_zone' for another."
        )
    if schedule and interval:
        section.ignore("interval", "It has no effect next to 'schedule'.")
    types = _referrer_types(section) if "referrerFilters" in section.keys else None
    return _Common(schedule or interval, flags, types, _media_types(section, report))


def _options(common: _Common) -> dict[str, Any]:
    """Return the options of the copies."""
    flags = common.flags
    options: dict[str, Any] = {"referrers": flags.get("referrers", False) or flags.get("digestTags", False)}
    if flags.get("referrers") and common.referrer_types and not flags.get("digestTags"):
        options["referrers"] = list(common.referrer_types)
    if flags.get("forceRecursive"):
        options["overwrite"] = "always"
    if "includeExternal" in flags:
        options["foreign_layers"] = "include" if flags["includeExternal"] else "leave-out"
    return options


def _platforms(entry: Section) -> dict[str, Any]:
    """Return the rule for platforms. The empty platform names manifests without one, which are always copied."""
    if one := entry.text("platform"):
        entry.ignore("platforms", "It has no effect next to 'platform'.")
        return {"platforms": {"only": [_platform(one)], "mode": "single"}}
    several = [_platform(text) for text in entry.texts("platforms") if text]
    return {"platforms": {"only": several, "mode": "sparse"}} if several else {}


def _referrer_types(section: Section) -> tuple[str, ...]:
    """Return the artifact types of ``referrerFilters``. Empty if one of them has no type: all are copied then."""
    types: list[str] = []
    is_limited = True
    for one in section.sections("referrerFilters"):
        found = one.text("artifactType")
        types += [found] if found else []
        is_limited = is_limited and found is not None
        one.close()
    return tuple(types) if is_limited else ()


def _platform(text: str) -> str:
    """Return a platform as the mirror writes it: ``windows/amd64,osver=10.0.1`` is ``windows/amd64:10.0.1``."""
    name, _, arguments = text.partition(",")
    version = re.fullmatch(r"\s*(?:osver|osversion)\s*=\s*([^,\s]+)\s*", arguments, re.IGNORECASE)
    return f"{name}:{version[1]}" if version else text


def _media_types(section: Section, report: Report) -> frozenset[str]:
    """Return the media types that are allowed. Those that the mirror never copies are left out, and reported."""
    found = {
        text: path for text, (_, path) in zip(section.texts("mediaTypes"), section.items("mediaTypes"), strict=True)
    }
    place = section.place_of("mediaTypes")
    for text, path in found.items():
        if text not in _MEDIA_TYPES:
            report.ignore(path, place.line, "The mirror copies no manifests of this type.")
    if found and not _MEDIA_TYPES & found.keys():
        raise place.malformed("the mirror copies none of these media types")
    return _MEDIA_TYPES & found.keys()


def _time(section: Section, key: str) -> dict[str, str] | None:
    text, place = section.text(key), section.place_of(key)
    if text is None:
        return None
    try:
        duration = read_duration(text) if key == "interval" else ""
        timetable = read_cron(text) if key == "schedule" else {"every": duration} if duration else None
    except ValueError as error:
        raise place.malformed(str(error)) from None
    if timetable:
        check_timetable(timetable, place)
    return timetable
