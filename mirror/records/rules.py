"""What a job may ask for beyond a name: which tags, which platforms, which target names, and when to overwrite.

These are values. `mirror.copying.selection` chooses tags by them, `mirror.copying.naming` makes names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from mirror.oci.digest import Digest
from mirror.oci.platform import PlatformPattern
from mirror.oci.tag_pattern import TagPattern
from mirror.signatures.policy import SignaturePolicy

TagOrder = Literal["semver", "created", "lexical", "numeric"]
TAG_ORDERS: Final[tuple[TagOrder, ...]] = get_args(TagOrder)
PlatformMode = Literal["all", "sparse", "rewrite", "single"]
PLATFORM_MODES: Final[tuple[PlatformMode, ...]] = get_args(PlatformMode)
Overwrite = Literal["if-different", "never", "always"]
OVERWRITES: Final[tuple[Overwrite, ...]] = get_args(Overwrite)
OnMove = Literal["follow", "report"]
ON_MOVES: Final[tuple[OnMove, ...]] = get_args(OnMove)
ForeignLayers = Literal["when-held", "include", "leave-out"]
FOREIGN_LAYERS: Final[tuple[ForeignLayers, ...]] = get_args(ForeignLayers)


@dataclass(frozen=True, slots=True)
class LatestTags:
    """Keep the *count* highest tags in the order *by*."""

    count: int
    by: TagOrder = "semver"


@dataclass(frozen=True, slots=True)
class TagRules:
    """Which tags of a repository to mirror. Without any rule: all.

    ``semver`` is a range such as ``>=3.18 <4``. ``min_age`` counts from when the mirror first saw the digest under the
    tag. ``since`` compares with the time at which the image says that it was created. ``max_tags`` and ``max_bytes``
    refuse the whole selection if it is larger.
    """

    allow: tuple[TagPattern, ...] = ()
    deny: tuple[TagPattern, ...] = ()
    semver: str | None = None
    latest: LatestTags | None = None
    min_age: timedelta | None = None
    since: datetime | None = None
    exclude_digests: tuple[Digest, ...] = ()
    media_types: tuple[str, ...] = ()
    max_tags: int | None = None
    max_bytes: int | None = None


ALL_TAGS: Final = TagRules()


@dataclass(frozen=True, slots=True)
class PlatformRules:
    """Which platforms to mirror, and what becomes of the index.

    - ``all``: everything is copied. At least one platform must match ``only``, if it is given.
    - ``sparse``: the index stays as it is, and only the chosen children are copied.
    - ``rewrite``: a new index lists the chosen children. It has a new digest.
    - ``single``: the manifest of the one chosen platform is what the tag shows.
    """

    only: tuple[PlatformPattern, ...] = ()
    mode: PlatformMode = "all"

    @property
    def key(self) -> str | None:
        """A text that two equal rules share: ``sparse:linux/amd64,linux/arm64``. None without any rule."""
        return f"{self.mode}:{','.join(sorted({str(pattern) for pattern in self.only}))}" if self.only else None


ALL_PLATFORMS: Final = PlatformRules()


@dataclass(frozen=True, slots=True)
class TagRename:
    """Replace the part of a tag that *regex* (RE2) matches by *to*, where ``\\1`` is its first group."""

    regex: str
    to: str


@dataclass(frozen=True, slots=True)
class TargetRule:
    """How the name of a target is made from its source.

    The repository of the source loses *strip_prefix*, and then each (from, to) of *replace* is applied to it. *tag* and
    *tag_suffix* change its tag. The results fill the *template*, whose fields are ``{registry} {repository} {name}
    {tag} {digest12} {date}``. A template without a tag gets ``:{tag}``.
    """

    template: str = "{registry}/{repository}:{tag}"
    strip_prefix: str = ""
    replace: tuple[tuple[str, str], ...] = ()
    tag: TagRename | None = None
    tag_suffix: str = ""


CANONICAL_TARGET: Final = TargetRule()


@dataclass(frozen=True, slots=True)
class ReferrerRules:
    """Which referrers of an image to mirror: all of them, those of some artifact *types*, or none."""

    are_wanted: bool = True
    types: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A text that two equal rules share."""
        return ",".join(sorted(set(self.types))) or ("all" if self.are_wanted else "none")

    def include(self, *artifact_types: str) -> bool:
        """Return whether a referrer of any of these types is wanted."""
        return self.are_wanted and (not self.types or any(one in self.types for one in artifact_types))


ALL_REFERRERS: Final = ReferrerRules()
NO_REFERRERS: Final = ReferrerRules(are_wanted=False)


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The options of every copy: of one image, and of each image that a selection chooses.

    A tag that matches ``immutable`` and exists in the mirror never moves to another digest. If the source has moved a
    tag, ``on_move_upstream`` says whether the tag in the mirror follows, or whether that is only reported. Foreign
    layers are mirrored ``when-held`` by the source, always (``include``, from their URLs), or never (``leave-out``).
    With a ``signature`` policy, an image that was not signed accordingly is not published.
    """

    platforms: PlatformRules = ALL_PLATFORMS
    overwrite: Overwrite = "if-different"
    immutable: tuple[TagPattern, ...] = ()
    on_move_upstream: OnMove = "follow"
    referrers: ReferrerRules = ALL_REFERRERS
    foreign_layers: ForeignLayers = "when-held"
    signature: SignaturePolicy | None = None


PLAIN_COPY: Final = CopyOptions()
