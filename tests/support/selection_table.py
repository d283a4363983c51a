"""Forty tags as a real repository has them, and which of them each rule selects.

docs/reference/selection.md shows the same rows. Unit tests compare both with the code, and an end-to-end test with a
real registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_HEX: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SIGNATURE: Final = f"sha256-{_HEX}.sig"
REFERRERS: Final = f"sha256-{_HEX}"

IMAGES: Final[tuple[tuple[str, ...], ...]] = (
    ("3.17.0",),
    ("3.17", "3.17.10"),
    ("3.18.0-rc1",),
    ("3.18.0-rc2",),
    ("3.18.0-rc10",),
    ("3.18.0",),
    ("3.18.9",),
    ("20240315",),
    ("3.19.0-rc1",),
    ("3.19.0",),
    ("3.18", "3.18.12"),
    ("3.19", "3.19.7"),
    ("3.20.0",),
    ("3.20.3-slim-rc1",),
    ("3.20.3-slim",),
    ("3", "3.20", "3.20.3", "latest", "release-3.20", "v3.20.3"),
    ("3.20.3_build5",),
    ("3.20.3.1",),
    ("3.21.0-alpha1",),
    ("3.21.0b2",),
    ("20240807", "edge"),
    ("2024-09-05", "2024.09.05"),
    ("4.0.0-rc1",),
    ("4.0.0",),
    ("nightly",),
    ("3..1", "3.20.", "v"),
    (SIGNATURE, REFERRERS),
)
"""The tags of each image, from the oldest image to the newest."""
TAGS: Final = tuple(sorted(tag for image in IMAGES for tag in image))
NEWEST: Final = datetime(2024, 10, 1, tzinfo=UTC)
OF_ONE_PLATFORM: Final = frozenset({"20240315", "3.20.3-slim", "3..1", "3.20.", "v", SIGNATURE, REFERRERS})
"""The tags that show a manifest. All others show an index of three platforms."""
INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


def number_of(tag: str) -> int:
    """Return the place of the tag's image among the images, from 0."""
    return next(number for number, tags in enumerate(IMAGES) if tag in tags)


def created(tag: str) -> datetime:
    """Return when the image says that it was created: one image each day."""
    return NEWEST - timedelta(days=len(IMAGES) - 1 - number_of(tag))


def first_seen_before(tag: str) -> timedelta:
    """Return how long ago the mirror first saw the tag's image: one image each six hours, the newest now."""
    return timedelta(hours=6 * (len(IMAGES) - 1 - number_of(tag)))


@dataclass(frozen=True, slots=True)
class Row:
    """Rules as JSON, and the tags that they select. ``DIGEST(tag)`` in a rule stands for the digest of that tag."""

    id: str
    rules: dict[str, Any]
    selected: Sequence[str]

    def with_digests(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return the rules with real digests."""
        text = json.dumps(self.rules)
        for tag, digest in digests.items():
            text = text.replace(f"DIGEST({tag})", digest)
        loaded: dict[str, Any] = json.loads(text)
        return loaded


def _all_but(*dropped: str) -> tuple[str, ...]:
    return tuple(tag for tag in TAGS if tag not in dropped)


_RELEASES: Final = ("3.18", "3.18.0", "3.18.12", "3.18.9", "3.19", "3.19.0", "3.19.7", "3.20", "3.20.0", "3.20.3")
_MORE_RELEASES: Final = ("3.20.3.1", "3.20.3_build5", "v3.20.3")

ROWS: Final = (
    Row("none", {}, _all_but(SIGNATURE, REFERRERS)),
    Row("allow-exact", {"allow": [{"exact": "edge"}, {"exact": "latest"}]}, ("edge", "latest")),
    Row("allow-glob", {"allow": [{"glob": "3.1[78].?"}]}, ("3.17.0", "3.18.0", "3.18.9")),
    Row("allow-regex", {"allow": [{"regex": r"v?3\.20\.[0-9]+"}]}, ("3.20.0", "3.20.3", "v3.20.3")),
    Row("allow-referrers", {"allow": [{"glob": "sha256-*.sig"}]}, (SIGNATURE,)),
    Row(
        "deny",
        {"deny": [{"glob": "*-rc*"}, {"regex": "[0-9]{8}"}, {"exact": "nightly"}]},
        _all_but(
            *("3.18.0-rc1", "3.18.0-rc10", "3.18.0-rc2", "3.19.0-rc1", "3.20.3-slim-rc1", "4.0.0-rc1"),
            *("20240315", "20240807", "nightly", SIGNATURE, REFERRERS),
        ),
    ),
    Row(
        "allow-and-deny",
        {"allow": [{"glob": "3.18*"}], "deny": [{"glob": "*-rc*"}]},
        ("3.18", "3.18.0", "3.18.12", "3.18.9"),
    ),
    Row("semver", {"semver": ">=3.18 <4"}, (*_RELEASES, *_MORE_RELEASES)),
    Row("semver-x", {"semver": "3.18.x"}, ("3.18", "3.18.0", "3.18.12", "3.18.9")),
    Row("semver-tilde", {"semver": "~3.19.1"}, ("3.19.7",)),
    Row("semver-caret", {"semver": "^3.20.1"}, ("3.20.3", "3.20.3.1", "3.20.3_build5", "v3.20.3")),
    Row("semver-hyphen", {"semver": "3.17 - 3.18.0"}, ("3.17", "3.17.0", "3.17.10", "3.18", "3.18.0")),
    Row("semver-or", {"semver": "3.17.10 || >3.20, !=2024.x"}, ("3.17.10", "4.0.0")),
    Row("semver-prerelease", {"semver": ">=3.18.0-rc2 <=3.18.0"}, ("3.18", "3.18.0", "3.18.0-rc10", "3.18.0-rc2")),
    Row(
        "semver-all-prereleases",
        {"semver": ">=3.20.4-0 <2000"},
        ("3.21.0-alpha1", "3.21.0b2", "4.0.0", "4.0.0-rc1"),
    ),
    Row("semver-variant", {"semver": ">=3.18-slim"}, ("3.20.3-slim",)),
    Row("semver-calendar", {"semver": "2024.9"}, ("2024.09.05",)),
    Row("latest-semver", {"latest": {"count": 3}}, ("2024.09.05", "4.0.0", "4.0.0-rc1")),
    Row(
        "latest-semver-in-range",
        {"semver": ">=3.18 <4", "latest": {"count": 4, "by": "semver"}},
        ("3.20.3", "3.20.3.1", "3.20.3_build5", "v3.20.3"),
    ),
    Row("latest-created", {"latest": {"count": 2, "by": "created"}}, ("3..1", "3.20.")),
    Row(
        "latest-lexical",
        {"allow": [{"glob": "3.1*"}], "latest": {"count": 2, "by": "lexical"}},
        ("3.19.0-rc1", "3.19.7"),
    ),
    Row(
        "latest-numeric",
        {"allow": [{"regex": "[0-9]+"}], "latest": {"count": 2, "by": "numeric"}},
        ("20240315", "20240807"),
    ),
    Row("since", {"since": "2024-09-29T00:00:00Z", "allow": [{"regex": "[0-9.]+"}]}, ("3..1", "3.20.")),
    Row(
        "exclude-digests",
        {"exclude_digests": ["DIGEST(latest)"], "semver": "3.20.x"},
        ("3.20.0", "3.20.3.1", "3.20.3_build5"),
    ),
    Row("media-types", {"media_types": [MANIFEST], "semver": "*-*"}, ("3.20.3-slim",)),
    Row("min-age", {"min_age": "72h", "semver": ">=3.20 <5"}, ("3.20.0",)),
    Row("min-age-all", {"min_age": "90d"}, ()),
    Row(
        "combined",
        {
            "semver": ">=3.18 <4",
            "deny": [{"glob": "*-rc*"}],
            "latest": {"count": 3, "by": "semver"},
            "min_age": "72h",
        },
        ("3.19", "3.19.7", "3.20.0"),
    ),
)
