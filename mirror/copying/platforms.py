"""Choose the platforms of an image, and make of them what its tag is to show. Pure: no I/O.

The rules decide about each entry of an index:

- An entry with a platform is chosen if one of the patterns matches it.
- An attestation follows the manifest that it attests.
- A nested index without a platform is looked into. Its own entries decide.
- The platform of any other manifest is named by its config. Until that was read, the entry is undecided.
- What has no platform at all, such as a Helm chart, is for every platform. So is a blob.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mirror.errors import ManifestInvalid, PlatformUnknown, listed
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.image import Image, LeftOut, ManifestContent
from mirror.oci.manifest import Index, Manifest, parse_manifest
from mirror.oci.platform import Platform, best_platform
from mirror.records.rules import PlatformRules

Learned = Mapping[Digest, Platform | None]
"""Platforms that configs named. None for a nested index, and for what has no platform."""

_MAY_BE_MANIFESTS: Final = media_types.MANIFESTS | {""}


@dataclass(frozen=True, slots=True)
class PlatformChoice:
    """The entries of one index: to be copied, to be decided when their config was read, and to be left out."""

    chosen: tuple[Descriptor, ...]
    undecided: tuple[Descriptor, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def choose(index: Index, rules: PlatformRules, learned: Learned) -> PlatformChoice:
    """Choose entries of *index*. With the mode ``all`` every entry is chosen.

    With the mode ``single`` it is the best of those that match, and what may hold a better one.
    """
    if rules.mode == "all":
        return PlatformChoice(index.manifests)
    by_verdict: dict[bool | None, list[Descriptor]] = {True: [], None: [], False: []}
    for entry, verdict in zip(index.manifests, _verdicts(index, rules, learned), strict=True):
        by_verdict[verdict].append(entry)
    left_out = (LeftOut(entry, _reason(entry, rules, learned)) for entry in by_verdict[False])
    return PlatformChoice(tuple(by_verdict[True]), tuple(by_verdict[None]), tuple(left_out))


def _found_platforms(image: Image, learned: Learned) -> tuple[Platform, ...]:
    """Return all platforms that the indexes of *image* list or its configs name, sorted."""
    indexes = [content.parsed for content in image.manifests if isinstance(content.parsed, Index)]
    found = {_platform(entry, learned) for index in indexes for entry in index.manifests}
    found.add(learned.get(image.digest))
    return tuple(sorted(platform for platform in found if platform and not platform.is_unknown))


def does_match(image: Image, rules: PlatformRules, learned: Learned) -> bool:
    """Whether one manifest of *image* is for one of the platforms of *rules*."""
    held = {content.descriptor.digest for content in image.manifests if isinstance(content.parsed, Manifest)}
    entries = [entry for content in image.manifests if isinstance(content.parsed, Index) for entry in _entries(content)]
    platforms = [_platform(entry, learned) for entry in entries if entry.digest in held]
    return any(platform and _matches(platform, rules) for platform in (*platforms, learned.get(image.digest)))


def shown_image(name: str, image: Image, rules: PlatformRules, learned: Learned) -> Image:
    """Return what the tag is to show of *image*, whose manifests are the chosen ones, children first.

    Nested indexes in which nothing was chosen are left out. Raises PlatformUnknown, with the *name* of the source, if
    no manifest is for a chosen platform. Raises ManifestInvalid if an index cannot be rewritten.
    """
    if not rules.only:
        return image
    if not does_match(image, rules, learned):
        found = [str(platform) for platform in _found_platforms(image, learned)]
        raise PlatformUnknown(name, [str(pattern) for pattern in rules.only], found)
    if rules.mode == "all" or isinstance(image.root.parsed, Manifest):
        return image
    pruned = _without_empty_indexes(image, rules)
    if rules.mode == "rewrite":
        return _rewritten(pruned)
    return _single(pruned, rules, learned) if rules.mode == "single" else pruned


def skip_reason(reference: str, platform: Platform | None, rules: PlatformRules) -> str | None:
    """Say why a single manifest for *platform* is not wanted. None if it is. An artifact has no platform."""
    if platform is None or not rules.only or _matches(platform, rules):
        return None
    named = "its config names no platform" if platform.is_unknown else f"it is for {platform} only"
    return f"'{reference}' has no index, and {named}. Wanted: {listed(map(str, rules.only))}"


def _verdicts(index: Index, rules: PlatformRules, learned: Learned) -> list[bool | None]:
    """Return for each entry whether it is chosen. None if a config has to be read first."""
    own = [False if entry.attested else _is_chosen(entry, rules, learned) for entry in index.manifests]
    if rules.mode == "single":
        return _only_best(index, own, learned)
    by_digest: dict[Digest, bool | None] = {}
    for entry, verdict in zip(index.manifests, own, strict=True):
        by_digest[entry.digest] = _either(by_digest.get(entry.digest, False), verdict)
    return [
        by_digest.get(entry.attested, False) if entry.attested else verdict
        for entry, verdict in zip(index.manifests, own, strict=True)
    ]


def _is_chosen(entry: Descriptor, rules: PlatformRules, learned: Learned) -> bool | None:
    """Return whether an entry that is no attestation is chosen. None if its config has to be read first."""
    if entry.media_type.startswith(media_types.BLOB_PREFIXES):
        return True
    if platform := _platform(entry, learned):
        return _matches(platform, rules)
    return None if entry.media_type in _MAY_BE_MANIFESTS and entry.digest not in learned else True


def _only_best(index: Index, verdicts: list[bool | None], learned: Learned) -> list[bool | None]:
    """Drop the chosen entries that another one is better than. Of two with one platform the first is kept."""
    platforms = {
        place: platform
        for place, (entry, verdict) in enumerate(zip(index.manifests, verdicts, strict=True))
        if verdict and entry.media_type in _MAY_BE_MANIFESTS and (platform := _platform(entry, learned))
    }
    if not platforms:
        return verdicts
    best = best_platform(platforms.values())
    kept = next(place for place, platform in platforms.items() if platform == best)
    return [verdict if place not in platforms else place == kept for place, verdict in enumerate(verdicts)]


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Combine verdicts about two entries with the same digest."""
    return True if one or other else None if one is None or other is None else False


def _platform(entry: Descriptor, learned: Learned) -> Platform | None:
    named = entry.platform
    return named if named and named.os and named.architecture else learned.get(entry.digest)


def _matches(platform: Platform, rules: PlatformRules) -> bool:
    return any(pattern.matches(platform) for pattern in rules.only)


def _reason(entry: Descriptor, rules: PlatformRules, learned: Learned) -> str:
    if entry.attested and rules.mode == "single":
        return "an attestation is listed by an index, and the platforms mode 'single' keeps none"
    if entry.attested:
        return f"it attests a manifest that the platforms mode '{rules.mode}' leaves out"
    named = _platform(entry, learned)
    return f"the platforms mode '{rules.mode}' leaves out {named or 'what has no platform'}"


def _entries(content: ManifestContent) -> tuple[Descriptor, ...]:
    return content.parsed.manifests if isinstance(content.parsed, Index) else ()


def _without_empty_indexes(image: Image, rules: PlatformRules) -> Image:
    """Drop each nested index of which nothing was chosen, with what it lists."""
    kept: dict[Digest, ManifestContent] = {}
    left_out = {entry.descriptor.digest: entry for entry in image.left_out}
    for content in image.manifests:
        entries = _entries(content)
        is_used = not entries or any(entry.digest in kept or entry.digest not in left_out for entry in entries)
        if is_used or content is image.root:
            kept[content.descriptor.digest] = content
        else:
            reason = f"the platforms mode '{rules.mode}' leaves out all that it lists"
            left_out[content.descriptor.digest] = LeftOut(content.descriptor, reason)
    return replace(image, manifests=tuple(kept.values()), left_out=tuple(left_out.values()))


def _rewritten(image: Image) -> Image:
    """Rewrite the indexes that list something left out, and those that list a rewritten one, from the bottom up."""
    dropped = {entry.descriptor.digest for entry in image.left_out if entry.code is None}
    changed: dict[Digest, ManifestContent] = {}
    for content in image.manifests:
        if any(entry.digest in dropped or entry.digest in changed for entry in _entries(content)):
            changed[content.descriptor.digest] = _rewritten_index(content, dropped, changed)
    return replace(image, manifests=tuple(changed.get(one.descriptor.digest, one) for one in image.manifests))


def _rewritten_index(
    content: ManifestContent, dropped: set[Digest], changed: Mapping[Digest, ManifestContent]
) -> ManifestContent:
    """Return an index with the same fields in the same order, without the dropped entries."""
    what = str(content.descriptor.digest)
    document: dict[str, Any] = json.loads(content.body.decode())
    document["manifests"] = [
        _moved(fields, changed.get(entry.digest))
        for entry, fields in zip(_entries(content), document["manifests"], strict=True)
        if entry.digest not in dropped
    ]
    try:
        body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (ValueError, RecursionError):
        raise ManifestInvalid(what, "it has a number that no JSON can hold, so it cannot be rewritten") from None
    parsed = parse_manifest(body, content.parsed.media_type, what=f"rewritten from {what}")
    digest = Digest.of(body, content.descriptor.digest.algorithm)
    return ManifestContent(replace(content.descriptor, digest=digest, size=len(body), data=None), body, parsed)


def _moved(fields: dict[str, Any], new: ManifestContent | None) -> dict[str, Any]:
    """Point an entry at the index that was rewritten. Content that it embeds was of the one before."""
    if new is None:
        return fields
    moved = {"digest": str(new.descriptor.digest), "size": new.descriptor.size}
    return {name: moved.get(name, value) for name, value in fields.items() if name != "data"}


def _single(image: Image, rules: PlatformRules, learned: Learned) -> Image:
    """Return the image of the best manifest that matches. All others, and the indexes, are left out."""
    held = {content.descriptor.digest: content for content in image.manifests if isinstance(content.parsed, Manifest)}
    entries = [entry for content in image.manifests for entry in _entries(content) if entry.digest in held]
    candidates = _by_platform(entries, rules, learned)
    chosen = held[candidates[best_platform(candidates)]]
    known = {entry.descriptor.digest for entry in image.left_out}
    others = [
        LeftOut(content.descriptor, f"the platforms mode 'single' keeps {chosen.descriptor.digest} only")
        for content in image.manifests
        if content is not chosen and content is not image.root and content.descriptor.digest not in known
    ]
    return Image((chosen,), (*image.left_out, *others))


def _by_platform(entries: Iterable[Descriptor], rules: PlatformRules, learned: Learned) -> dict[Platform, Digest]:
    found: dict[Platform, Digest] = {}
    for entry in entries:
        platform = None if entry.attested else _platform(entry, learned)
        if platform and _matches(platform, rules):
            found.setdefault(platform, entry.digest)
    return found
