"""Every key the mirror ever writes; nothing else spells one. Keys are relative to the bucket's prefix.

    docker/registry/v2/                                 CNCF distribution's layout (its registry/storage/paths.go)
    ├── blobs/<algorithm>/<hh>/<hex>/data               the bytes: layers, configs and manifests; hh: first two of hex
    └── repositories/<repository>/
        ├── _layers/<algorithm>/<hex>/link              the digest: this repository may serve the blob
        └── _manifests/
            ├── revisions/<algorithm>/<hex>/link        the digest: this repository has the manifest
            └── tags/<tag>/
                ├── current/link                        the digest the tag points at
                └── index/<algorithm>/<hex>/link        the digests it ever pointed at
    mirror/v1/                                          ours
    ├── probe                                           written to see whether the bucket takes writes
    ├── kept/<repository>/<digest>                      wanted without a tag
    ├── images/<repository>/<digest>                    where an image came from, JSON
    └── blobs/<algorithm>/<hex>/<registry>/<repository>/_source
                                                        empty: the blob was verified from there

No component of a repository starts with an underscore or holds a colon, so no object's key is another's directory.
That matters: an S3 server that keeps objects as files (rclone, Versity) cannot store both ``a`` and ``a/b``, and both
``team`` and ``team/app`` are repositories.
"""

from __future__ import annotations

from typing import Final

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from mirror.oci.reference import is_tag, repository_problem

_REGISTRY: Final = "docker/registry/v2"
_OURS: Final = "mirror/v1"
_SOURCE: Final = "/_source"


def blob_key(digest: Digest) -> str:
    return f"{_REGISTRY}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def blobs_prefix() -> str:
    return f"{_REGISTRY}/blobs/"


def repositories_prefix() -> str:
    return f"{_REGISTRY}/repositories/"


def layers_prefix(repository: str) -> str:
    return f"{repositories_prefix()}{repository}/_layers/"


def layer_link_key(repository: str, digest: Digest) -> str:
    return f"{layers_prefix(repository)}{digest.algorithm}/{digest.hex}/link"


def revision_link_key(repository: str, digest: Digest) -> str:
    return f"{repositories_prefix()}{repository}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link"


def tags_prefix(repository: str) -> str:
    return f"{repositories_prefix()}{repository}/_manifests/tags/"


def tag_prefix(repository: str, tag: str) -> str:
    return f"{tags_prefix(repository)}{tag}/"


def tag_current_key(repository: str, tag: str) -> str:
    return f"{tag_prefix(repository, tag)}current/link"


def tag_history_prefix(repository: str, tag: str) -> str:
    return f"{tag_prefix(repository, tag)}index/"


def tag_history_key(repository: str, tag: str, digest: Digest) -> str:
    return f"{tag_history_prefix(repository, tag)}{digest.algorithm}/{digest.hex}/link"


def probe_key() -> str:
    return f"{_OURS}/probe"


def kept_prefix() -> str:
    return f"{_OURS}/kept/"


def kept_key(repository: str, digest: Digest) -> str:
    return f"{kept_prefix()}{repository}/{digest}"


def image_provenance_key(repository: str, digest: Digest) -> str:
    return f"{_OURS}/images/{repository}/{digest}"


def blob_provenance_prefix(digest: Digest) -> str:
    return f"{_OURS}/blobs/{digest.algorithm}/{digest.hex}/"


def blob_provenance_key(digest: Digest, registry: str, repository: str) -> str:
    return f"{blob_provenance_prefix(digest)}{registry}/{repository}{_SOURCE}"


def parse_blob(key: str) -> Digest | None:
    """The inverse of `blob_key`, None for any other key."""
    algorithm, _, rest = key.removeprefix(blobs_prefix()).partition("/")
    digest = _digest(f"{algorithm}:{rest.removesuffix('/data').rpartition('/')[2]}")
    return digest if digest is not None and blob_key(digest) == key else None


def parse_tag_current(key: str) -> tuple[str, str] | None:
    """The inverse of `tag_current_key`: repository and tag, or None for any other key."""
    rest, suffix = key.removeprefix(repositories_prefix()), "/current/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, tag = rest.removesuffix(suffix).partition("/_manifests/tags/")
    return None if repository_problem(repository) or not is_tag(tag) else (repository, tag)


def parse_revision_link(key: str) -> tuple[str, Digest] | None:
    """The inverse of `revision_link_key`: repository and digest, or None for any other key."""
    rest, suffix = key.removeprefix(repositories_prefix()), "/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, path = rest.removesuffix(suffix).partition("/_manifests/revisions/")
    digest = _digest(path.replace("/", ":", 1))
    return None if repository_problem(repository) or digest is None else (repository, digest)


def parse_tag_history(key: str) -> tuple[str, str, Digest] | None:
    """The inverse of `tag_history_key`: repository, tag and digest, or None for any other key."""
    rest, suffix = key.removeprefix(repositories_prefix()), "/link"
    if rest == key or not rest.endswith(suffix):
        return None
    repository, _, below = rest.removesuffix(suffix).partition("/_manifests/tags/")
    tag, _, path = below.partition("/index/")
    digest = _digest(path.replace("/", ":", 1))
    return None if repository_problem(repository) or not is_tag(tag) or digest is None else (repository, tag, digest)


def parse_kept(key: str) -> tuple[str, Digest] | None:
    """The inverse of `kept_key`: repository and digest, or None for any other key."""
    rest = key.removeprefix(kept_prefix())
    repository, _, text = rest.rpartition("/")
    digest = _digest(text)
    return None if rest == key or repository_problem(repository) or digest is None else (repository, digest)


def parse_blob_provenance(digest: Digest, key: str) -> tuple[str, str] | None:
    """The inverse of `blob_provenance_key` for *digest*: registry and repository, or None for any other key."""
    rest = key.removeprefix(blob_provenance_prefix(digest))
    if rest == key or not rest.endswith(_SOURCE):
        return None
    registry, _, repository = rest.removesuffix(_SOURCE).partition("/")
    return None if not registry or repository_problem(repository) else (registry, repository)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None
