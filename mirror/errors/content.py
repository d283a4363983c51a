"""Errors for content that is not what its description says."""

from __future__ import annotations

from typing import Self

from mirror.errors.base import MirrorError, quoted


class ContentError(MirrorError):
    """The bytes at the source cannot be mirrored."""

    status = 502


class ManifestInvalid(ContentError):
    code = "MANIFEST_INVALID"
    hint = "The manifest is damaged, or made to mislead. Build the image again and push it."

    def __init__(self, what: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"The manifest {what} is invalid: {reason}", hint=hint, reason=reason)


class MediaTypeUnsupported(ContentError):
    code = "MEDIA_TYPE_UNSUPPORTED"
    hint = "Docker schema 2 and OCI manifests and indexes can be mirrored. Push the content with a current tool."
    _SCHEMA_1_HINT = (
        "The image has Docker's first format. Docker 26 and containerd 2 disabled it, and later versions cannot read "
        "it. Build the image again, or convert it: 'skopeo copy --format v2s2' writes a copy with another digest."
    )

    def __init__(self, what: str, media_type: str, *, hint: str | None = None) -> None:
        message = f"The manifest {what} has the media type {quoted(media_type)}, which cannot be mirrored"
        super().__init__(message, hint=hint)

    @classmethod
    def for_schema_1(cls, what: str, media_type: str) -> Self:
        """Return the error for a Docker schema 1 manifest. *media_type* is its signed or unsigned type."""
        return cls(what, media_type, hint=cls._SCHEMA_1_HINT)


class DigestMismatch(ContentError):
    code = "DIGEST_MISMATCH"
    hint = "The bytes were changed in transit or at the source. Do not trust that copy."

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"The bytes of {expected} have the digest {actual}")


class SizeInvalid(ContentError):
    code = "SIZE_INVALID"
    hint = "The manifest and the bytes disagree. Push the image to its source again."

    def __init__(
        self, digest: str, expected: int | str, actual: int | str, *, what: str = "blob", hint: str | None = None
    ) -> None:
        super().__init__(f"The {what} {digest} should have {expected} bytes and has {actual}", hint=hint)


class SignatureRequired(ContentError):
    """An image has no signature that a policy accepts. Nothing of it was published."""

    code = "SIGNATURE_REQUIRED"
    hint = "Sign the image as the policy asks, and push the signature to the source. Then run the job again."

    def __init__(self, digest: str, reason: str) -> None:
        super().__init__(f"The image {digest} was not published: {reason}", reason=reason)
