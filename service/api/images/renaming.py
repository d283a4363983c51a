"""Re-tagging and deleting, with the rules that hold for names that a request gives."""

from __future__ import annotations

from typing import Any

from mirror.catalog.publish import Precondition
from mirror.catalog.tag_change import TagUpdate
from mirror.errors import InvalidReference, ManifestInUse, NameTooLong, PreconditionFailed
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import MAX_NAME_LENGTH
from mirror.wiring import Core


def point(held: Core, target: LocalImage, body: dict[str, Any], *, allowed: Precondition) -> TagUpdate:
    """Point the tag *target* at the body's ``source`` (another image) or ``digest`` (of the same repository).

    Raises InvalidInput, ImageNotHeld, PreconditionFailed or Conflict.
    """
    if target.tag is None:
        raise InvalidReference(str(target), "only a tag can be pointed at an image", hint="Name a tag: 'team/redis:7'.")
    source = _source(target, body)
    target.require_source(source.registry_component or "", str(source))
    name = f"{held.settings.public_host}/{target.repository}"
    if len(name) > MAX_NAME_LENGTH:
        raise NameTooLong(name, MAX_NAME_LENGTH)
    return held.publisher.retag(target, source, allowed=allowed)


def take_away(held: Core, name: LocalImage, *, allowed: Precondition) -> None:
    """Delete a tag, or no longer keep a digest; raises ImageNotHeld, PreconditionFailed or Conflict."""
    if name.digest is None:
        held.publisher.delete(name, allowed=allowed)
    else:
        _let_go(held, name, name.digest, allowed)


def _source(target: LocalImage, body: dict[str, Any]) -> LocalImage:
    if body["digest"] is not None:
        return LocalImage(target.repository, digest=Digest.parse(body["digest"]))
    source = LocalImage.parse(body["source"])
    if source.tag is None and source.digest is None:
        hint = "Add a tag or a digest: 'team/redis:7', 'team/redis@sha256:…'."
        raise InvalidReference(body["source"], "it has neither a tag nor a digest", hint=hint)
    return source


def _let_go(held: Core, name: LocalImage, digest: Digest, allowed: Precondition) -> None:
    """A tag that is pointed at the digest meanwhile protects it by itself, so no lease is needed."""
    current = held.reader.digest(name)
    if not allowed(current):
        raise PreconditionFailed(str(name), str(current))
    showing, _ = held.index.images(
        limit=1, repository=name.repository, wanted=lambda entry: entry.digest == str(digest)
    )
    if showing:
        raise ManifestInUse(str(name), f"the tag '{showing[0].tag}'")
    held.kept.unkeep(name.repository, digest)
