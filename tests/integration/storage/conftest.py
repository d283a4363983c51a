"""A bucket on a scripted S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mirror.storage.bucket import Bucket
from mirror.storage.s3 import S3Clients
from tests.integration.storage.scripted_s3 import OpenBucket, Script, ScriptedS3


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenBucket]:
    """Open a bucket on a scripted endpoint."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")
    closing: list[Callable[[], object]] = []

    def open_bucket(script: Script) -> tuple[Bucket, ScriptedS3]:
        server = ScriptedS3(script)
        serving = server.serving()
        serving.__enter__()
        bucket = Bucket(S3Clients("us-east-1", server.url), "images", prefix="prefix")
        closing.extend([lambda: serving.__exit__(None, None, None), bucket.close])
        return bucket, server

    yield open_bucket
    for close in reversed(closing):
        close()
