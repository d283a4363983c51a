"""Every key that the mirror writes. No other module spells one. Keys are relative to the bucket's prefix.

    docker/registry/v2/                                 CNCF distribution's layout (its registry/storage/paths.go)
    ├── blobs/<algorithm>/<hh>/<hex>/data               layers, configs and manifests (hh: the first two of hex)
    └── repositories/<repository>/
        ├── _layers/<algorithm>/<hex>/link              the digest: this repository may serve the blob
        └── _manifests/
            ├── revisions/<algorithm>/<hex>/link        the digest: this repository has the manifest
            └── tags/<tag>/
                ├── current/link                        the digest the tag points at
                └── index/<algorithm>/<hex>/link        the digests it ever pointed at
    mirror/v1/                                          the mirror's own:
    ├── probe                                           written to see whether the bucket takes writes
    ├── kept/<repository>/<digest>                      this image is kept without a tag
    ├── images/<repository>/<digest>                    where an image came from, JSON
    ├── releases/<job>                                  the tags that an atomic job is moving, JSON
    ├── tombstones/<repository>/_tags/<tag>             what the tag was that its source has deleted, JSON
    └── blobs/<algorithm>/<hex>/<registry>/<repository>/_source
                                                        empty: the blob was verified from there

No component of a repository starts with an underscore or has a colon in it. So no object's key is the directory of
another object. That matters for S3 servers that store objects as files (rclone, Versity), which cannot store both ``a``
and ``a/b``: ``team`` and ``team/app`` may both be repositories.
"""

from __future__ import annotations

from typing import Final

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from mirror.oci.reference import is_tag, repository_problem

_REGISTRY: Final = "docker/registry/v2"
_OURS: Final = "mirror/v1"
BLOBS_PREFIX: Final = f"{_REGISTRY}/blobs/"
REPOSITORIES_PREFIX: Final = f"{_REGISTRY}/repositories/"
RELEASES_PREFIX: Final = f"{_OURS}/releases/"
PROBE_KEY: Final = f"{_OURS}/probe"


def blob_key(digest: Digest) -> str:
    return f"{BLOBS_PREFIX}{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def layer_link_key(repository: str, digest: Digest) -> str:
    return f"{REPOSITORIES_PREFIX}{repository}/_layers/{digest.algorithm}/{digest.hex}/link"


def revision_link_key(repository: str, digest: Digest) -> str:
    return f"{REPOSITORIES_PREFIX}{repository}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link"


def tags_prefix(repository: str) -> str:
    return f"{REPOSITORIES_PREFIX}{repository}/_manifests/tags/"


def tag_prefix(repository: str, tag: str) -> str:
    return f"{tags_prefix(repository)}{tag}/"


def tag_current_key(repository: str, tag: str) -> str:
    return f"{tag_prefix(repository, tag)}current/link"


def tag_history_prefix(repository: str, tag: str) -> str:
    return f"{tag_prefix(repository, tag)}index/"


def tag_history_key(repository: str, tag: str, digest: Digest) -> str:
    return f"{tag_history_prefix(repository, tag)}{digest.algorithm}/{digest.hex}/link"


def kept_key(repository: str, digest: Digest) -> str:
    return f"{_OURS}/kept/{repository}/{digest}"


def image_provenance_key(repository: str, digest: Digest) -> str:
    return f"{_OURS}/images/{repository}/{digest}"


def release_key(job: str) -> str:
    return f"{RELEASES_PREFIX}{job}"


def tombstones_prefix(repository: str) -> str:
    return f"{_OURS}/tombstones/{repository}/_tags/"


def tombstone_key(repository: str, tag: str) -> str:
    return f"{tombstones_prefix(repository)}{tag}"


def blob_provenance_key(digest: Digest, registry: str, repository: str) -> str:
    return f"{_OURS}/blobs/{digest.algorithm}/{digest.hex}/{registry}/{repository}/_source"


def parse_blob(key: str) -> Digest | None:
    """Parse a key of `blob_key` into the digest. Return None for any other key."""
    algorithm, _, rest = key.removeprefix(BLOBS_PREFIX).partition("/")
    digest = _digest(f"{algorithm}:{rest.removesuffix('/data').rpartition('/')[2]}")
    return digest if digest is not None and blob_key(digest) == key else None


def parse_tag_current(key: str) -> tuple[str, str] | None:
    """Parse a key of `tag_current_key` into repository and tag. Return None for any other key."""
    rest, suffix = key.removeprefix(REPOSITORIES_PREFIX), "/current/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, tag = rest.removesuffix(suffix).partition("/_manifests/tags/")
    return None if repository_problem(repository) or not is_tag(tag) else (repository, tag)


def parse_revision_link(key: str) -> tuple[str, Digest] | None:
    """Parse a key of `revision_link_key` into repository and digest. Return None for any other key."""
    rest, suffix = key.removeprefix(REPOSITORIES_PREFIX), "/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, path = rest.removesuffix(suffix).partition("/_manifests/revisions/")
    digest = _digest(path.replace("/", ":", 1))
    return None if repository_problem(repository) or digest is None else (repository, digest)


def parse_tag_history(key: str) -> tuple[str, str, Digest] | None:
    """Parse a key of `tag_history_key` into repository, tag and digest. Return None for any other key."""
    rest, suffix = key.removeprefix(REPOSITORIES_PREFIX), "/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, below = rest.removesuffix(suffix).partition("/_manifests/tags/")
    tag, _, path = below.partition("/index/")
    digest = _digest(path.replace("/", ":", 1))
    return None if repository_problem(repository) or not is_tag(tag) or digest is None else (repository, tag, digest)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None
