"""What an image drags along, and where each of it must be readable after a copy.

docs/reference/artifacts.md shows the same cells. A unit test compares both, and an end-to-end test proves each cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SOURCES: Final = ("api", "fallback")
"""A registry with the referrers API, and one where the tools write the fallback tag."""
SUBJECTS: Final = ("index", "child")
READERS: Final = ("mirror", "stock")
"""Our /v2, and Debian's docker-registry on the bucket."""
NO_CHILD: Final = "It is one manifest, so it has no child."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of artifact. `id` is the name of its fixture.

    A referrer of each of *types* is listed for a subject. A tag with each of *suffixes* is made of its digest. With
    *is_child* the artifact is an entry of the index itself. *missing* says for a subject why there is no such artifact.
    """

    id: str
    types: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    is_child: bool = False
    tag: str = "1"
    missing: tuple[tuple[str, str], ...] = ()


KINDS: Final = (
    Kind("cosign-v2-tag", suffixes=(".sig", ".att", ".sbom")),
    Kind("cosign-v2-referrer", types=("application/vnd.dev.cosign.artifact.sig.v1+json",)),
    Kind("cosign-v3-bundle", types=("application/vnd.dev.sigstore.bundle.v0.3+json",)),
    Kind("notation-signature", types=("application/vnd.cncf.notary.signature",)),
    Kind("sbom-attachment", types=("application/spdx+json", "application/vnd.cyclonedx+json")),
    Kind(
        "buildkit-attestation",
        is_child=True,
        missing=(("index", "BuildKit attests the image of each platform, never the index."),),
    ),
    Kind(
        "helm-chart",
        types=("application/vnd.cncf.notary.signature",),
        tag="1.0.0",
        missing=(("child", NO_CHILD),),
    ),
    Kind("oras-artifact", types=("application/spdx+json",), missing=(("child", NO_CHILD),)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind of artifact, where it comes from, what it is about, and where it is read after the copy."""

    kind: Kind
    source: str
    subject: str
    reader: str

    @property
    def id(self) -> str:
        return f"{self.kind.id}-{self.source}-{self.subject}-{self.reader}"

    @property
    def missing(self) -> str | None:
        """Return why the cell cannot exist, or None."""
        return dict(self.kind.missing).get(self.subject)


def cells() -> Iterator[Cell]:
    """Yield all cells, also those that cannot exist."""
    for kind in KINDS:
        for source in SOURCES:
            for subject in SUBJECTS:
                for reader in READERS:
                    yield Cell(kind, source, subject, reader)
