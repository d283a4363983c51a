"""Errors about what the mirror holds: repositories, images, tags and blobs."""

from __future__ import annotations

from typing import Self

from mirror.errors.base import Conflict, NotHeld, Unavailable


class RepositoryNotHeld(NotHeld):
    code = "NAME_UNKNOWN"
    hint = "GET /v1/repositories lists the repositories of the mirror."

    def __init__(self, repository: str) -> None:
        super().__init__(f"The mirror holds no repository '{repository}'")


class ImageNotHeld(NotHeld):
    code = "MANIFEST_UNKNOWN"
    hint = "Mirror it first with POST /v1/jobs. GET /v1/images lists the images of the mirror."
    _BY_DIGEST_HINT = (
        "If an index lists it, the image was mirrored with the platforms mode 'sparse', without this platform: mirror "
        "this platform too. If not, mirror the image first with POST /v1/jobs."
    )

    def __init__(self, image: str, *, hint: str | None = None) -> None:
        super().__init__(f"The mirror holds no image '{image}'", hint=hint)

    @classmethod
    def of_digest(cls, image: str) -> Self:
        """Return the error for a manifest that a client asks for by its digest, perhaps because an index lists it."""
        return cls(image, hint=cls._BY_DIGEST_HINT)

    @classmethod
    def deleted_upstream(cls, image: str, source: str, when: str, digest: str) -> Self:
        """Return the error for a tag that a schedule has deleted because its source has, and whose image is kept."""
        error = cls(image, hint=f'To bring it back: PUT /v1/images/{image} {{"digest": "{digest}"}}.')
        error.message += f" any more: its source '{source}' was deleted, and a schedule deleted the tag at {when}. "
        error.message += f"The image is kept as {digest}"
        error.args = (error.message,)
        return error


class BlobNotHeld(NotHeld):
    code = "BLOB_UNKNOWN"
    hint = "Mirror the image that needs this blob again."

    def __init__(self, repository: str, digest: str) -> None:
        super().__init__(f"The mirror holds no blob {digest} in '{repository}'")


class NoRegistryMirrored(NotHeld):
    code = "NO_REGISTRY_MIRRORED"
    hint = "Mirror an image first, or name the registries that you will mirror: '?registries=docker.io,quay.io'."

    def __init__(self) -> None:
        super().__init__("The mirror holds no image under the name of a registry yet")


class PreconditionFailed(Conflict):
    code = "PRECONDITION_FAILED"
    status = 412
    hint = "Read the image again, then decide."

    def __init__(self, image: str, actual: str | None) -> None:
        self.actual = actual
        now = f"points at {actual}" if actual else "does not exist"
        super().__init__(f"'{image}' {now}, which does not match If-Match or If-None-Match")


class TagDrifted(Conflict):
    """The source moved a tag that never moves in the mirror."""

    code = "TAG_DRIFTED"
    hint = "Delete the tag in the mirror to follow the source, or name a new tag."

    def __init__(self, image: str, shown: str, found: str) -> None:
        super().__init__(f"The tag '{image}' is immutable and shows {shown}, but its source now has {found}")


class ManifestInUse(Conflict):
    """Tags, or indexes, still need the manifest that was to be deleted."""

    code = "MANIFEST_IN_USE"
    hint = "Delete the tags that hold it first."

    def __init__(self, image: str, tags: str) -> None:
        super().__init__(f"'{image}' is held by {tags}")


class ReferrersTagTaken(Conflict):
    """The fallback tag of a subject shows an image, so the mirror cannot list referrers there."""

    code = "REFERRERS_TAG_TAKEN"
    hint = (
        "The tag belongs to the list of what refers to an image, such as its signatures. Give the image that it shows "
        "another tag with PUT /v1/images/…, then delete this one. Or mirror with 'referrers': false."
    )

    def __init__(self, image: str, media_type: str) -> None:
        super().__init__(f"Referrers cannot be listed under '{image}', because it shows another image: {media_type}")


class TooManyReferrers(Conflict):
    """A subject has more referrers than a list may have, or an image has more than one job copies."""

    code = "TOO_MANY_REFERRERS"
    hint = "Mirror only the types of referrers that you need, as in 'referrers': ['application/spdx+json']."

    @classmethod
    def in_list(cls, image: str, entries: int, size: int) -> Self:
        """Return the error for a list that would be larger than clients and registries accept."""
        return cls(
            f"The list of referrers '{image}' would have {entries} entries and {size} bytes, more than a list may have",
            hint=f"{cls.hint} To begin a new list, delete this tag.",
        )

    @classmethod
    def of_image(cls, source: str, most: int) -> Self:
        """Return the error for an image that has more than *most* referrers at its source."""
        return cls(f"The image {source} has more than {most} signatures, SBOMs and other referrers")


class TagBusy(Conflict):
    """Another task or request holds the lease of the tag, or of the record of its image."""

    code, retryable = "TAG_BUSY", True
    waits_for = "tag_busy"
    http_retry_after = 2
    hint = "Another change of this tag is in progress. Try again in a few seconds."

    def __init__(self, image: str) -> None:
        super().__init__(f"Another change of '{image}' is in progress")


class BlobBusy(Conflict):
    """Another job's worker is copying the blob. All workers together fetch each blob once."""

    code, retryable = "BLOB_BUSY", True
    waits_for = "blob_in_transfer"
    retry_after = 3.0
    hint = "Another job is copying this blob. This job continues when the copy is complete."

    def __init__(self, digest: str) -> None:
        super().__init__(f"Another job is copying the blob {digest}")


class BlobBeingDeleted(Conflict):
    code, retryable = "BLOB_BEING_DELETED", True
    waits_for = "blob_being_deleted"
    http_retry_after = 2
    hint = "Garbage collection is deleting this blob. Try again in a few seconds."

    def __init__(self, digest: str) -> None:
        super().__init__(f"The blob {digest} is being deleted")


class CatalogRebuilding(Unavailable):
    code = "CATALOG_REBUILDING"
    hint = "The index of images is being rebuilt from the bucket. Pulls work. Lists work again when it is complete."

    def __init__(self) -> None:
        super().__init__("The list of images is being rebuilt from the bucket")
