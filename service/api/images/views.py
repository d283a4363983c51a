"""``/v1/images``: list, read, retag and delete images of the mirror. No bytes are copied."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from flask import Response, request

from mirror.catalog.entry import ImageEntry
from mirror.errors import ImageNotHeld, InvalidReference, InvalidTag, RedisUnavailable
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import Reference, is_tag, repository_problem
from mirror.oci.referrer import REFERRER_TAG
from mirror.records.fields import timestamp
from mirror.storage.provenance import platforms_mode
from service.api.images.document import image_document
from service.api.images.schema import ImageDetailSchema, ImagePageSchema, ImageQuery, RetagRequestSchema, TagSchema
from service.core import core, service
from service.http.blueprint import api_blueprint, header, refuses
from service.http.pagination import DIGEST_EXAMPLE, NoParameters, next_page, public_url
from service.http.preconditions import etag, precondition

IMAGES: Final = api_blueprint(
    "images", "Images of the mirror. `{image}` is `repository:tag` or `repository@digest`, slashes and all."
)
_PATH: Final = "/v1/images/<path:image>"
_ETAG: Final = {"ETag": header("The digest, for If-Match.", f'"{DIGEST_EXAMPLE}"')}
_WANTS_A_TAG: Final = "Add a tag or a digest: 'team/redis:7', 'team/redis@sha256:…'."


@IMAGES.get("/v1/images")
@IMAGES.arguments(ImageQuery, location="query")
@IMAGES.response(200, ImagePageSchema, headers={"Link": header("The next page, RFC 8288.", '<…>; rel="next"')})
@refuses(IMAGES, 401, 422, 503)
def list_images(query: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """List tags in lexical order of `repository:tag`.

    Tags of referrers, such as `sha256-….sig`, are listed only if the request wants them or names one.
    """
    repository, tag, limit, referrers = (query[name] for name in ("repository", "tag", "limit", "referrers"))
    source = None if query["source"] is None else str(Reference.parse(query["source"]))
    _require_names(repository, tag)

    def matches(entry: ImageEntry) -> bool:
        if not referrers and tag is None and REFERRER_TAG.fullmatch(entry.tag):
            return False
        filters = ((repository, entry.repository), (tag, entry.tag), (source, entry.source))
        return all(asked in (None, found) for asked, found in filters)

    found, following = core().index.images(
        limit=limit, after=query["cursor"] or "", repository=repository, wanted=matches
    )
    times = service().checked.times([(entry.repository, entry.tag) for entry in found])
    items = [_entry_document(entry, checked) for entry, checked in zip(found, times, strict=True)]
    page = {"items": items, "next": following}
    kept = {
        "repository": repository,
        "tag": tag,
        "source": source,
        "limit": limit,
        "referrers": "true" if referrers else None,
    }
    return page, next_page("images.list_images", after=following, **kept)


@IMAGES.get(_PATH)
@IMAGES.response(200, ImageDetailSchema, headers=_ETAG)
@IMAGES.alt_response(304, description="The image is the one that If-None-Match names.")
@refuses(IMAGES, 401, 404, 422, 503)
def read_image(image: str) -> Response | tuple[dict[str, Any], dict[str, str]]:
    """Read one image in full: manifest or index, platforms, layers with their sizes, config."""
    name = _parse(image)
    digest = _digest(name)
    headers = {"ETag": etag(digest)}
    if request.if_none_match.contains_weak(str(digest)):
        return Response(status=304, headers=headers)
    return {**image_document(core().reader.inspect(name)), "checked_at": _checked_at(name)}, headers


@IMAGES.put(_PATH)
@IMAGES.arguments(NoParameters, location="query")
@IMAGES.arguments(RetagRequestSchema, example={"from": "docker.io/library/redis:7"})
@IMAGES.response(200, TagSchema, description="The tag was moved.", headers=_ETAG)
@IMAGES.alt_response(201, schema=TagSchema, description="The tag is new.", headers=_ETAG)
@refuses(IMAGES, 400, 401, 404, 409, 412, 413, 415, 422, 503)
def retag_image(_: dict[str, Any], body: dict[str, Any], image: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Point a tag at an image that the mirror holds. No bytes are copied.

    In another repository the referrers of the image are listed too: its signatures, SBOMs and attestations. Tags of
    cosign 2 that exist there already stay as they are.

    `If-Match: "<digest>"` moves the tag only if it shows that digest, `If-None-Match: *` only if it does not exist.
    A name under a registry's host takes only images that stand under that host already, and `library/…`,
    `docker.io/library/…` and `docker.io/<name>` only images of `docker.io/library/…`.
    """
    target = _parse(image)
    source = _source(target, body)
    moved = core().retagger.retag(target, source, allowed=precondition(request))
    headers = {"ETag": etag(moved.digest), "Location": public_url("images.read_image", image=str(target))}
    document = {
        "repository": target.repository,
        "tag": target.tag,
        "digest": str(moved.digest),
        "superseded_by": moved.superseded_by,
    }
    return document, 201 if moved.created else 200, headers


@IMAGES.delete(_PATH)
@IMAGES.arguments(NoParameters, location="query")
@IMAGES.response(204, description="The name is gone; blobs that nothing else needs go at garbage collection.")
@refuses(IMAGES, 401, 404, 409, 412, 422, 503)
def delete_image(_: dict[str, Any], image: str) -> Response:
    """Delete a tag, or let go of an image that is kept by its digest.

    By digest it is refused (409) while a tag of the repository shows that digest, and the image stays readable by its
    digest until garbage collection.
    """
    core().deleter.delete(_parse(image), allowed=precondition(request))
    return Response(status=204)


def _entry_document(entry: ImageEntry, checked: datetime | None) -> dict[str, Any]:
    found = entry.source_digest or (entry.digest if entry.source else None)
    return {
        **asdict(entry),
        "source_digest": found,
        "platforms_mode": platforms_mode(entry.platform_rules),
        "checked_at": timestamp(checked) if checked else None,
    }


def _checked_at(name: LocalImage) -> str | None:
    """Return when the tag was compared with its source. The image is shown without that while Redis is away."""
    if name.tag is None or name.digest:
        return None
    try:
        [checked] = service().checked.times([(name.repository, name.tag)])
    except RedisUnavailable:
        return None
    return timestamp(checked) if checked else None


def _digest(name: LocalImage) -> Digest:
    """Return the digest that *name* shows. Raises ImageNotHeld, which says if a schedule has deleted the tag."""
    try:
        return core().reader.digest(name)
    except ImageNotHeld:
        found = core().tombstones.read(name.repository, name.tag) if name.tag else None
        if found is None:
            raise
        when = timestamp(found.deleted_at)
        raise ImageNotHeld.deleted_upstream(str(name), found.source, when, str(found.digest)) from None


def _parse(text: str) -> LocalImage:
    name = LocalImage.parse(text)
    if name.tag is None and name.digest is None:
        raise InvalidReference(text, "it has neither a tag nor a digest", hint=_WANTS_A_TAG)
    return name


def _source(target: LocalImage, body: dict[str, Any]) -> LocalImage:
    """Return the image that the body names: ``from``, or a ``digest`` of the target's own repository."""
    if body["digest"] is not None:
        return LocalImage(target.repository, digest=Digest.parse(body["digest"]))
    return _parse(body["source"])


def _require_names(repository: str | None, tag: str | None) -> None:
    if repository is not None and (problem := repository_problem(repository)):
        raise InvalidReference(repository, problem)
    if tag is not None and not is_tag(tag):
        raise InvalidTag(tag)
