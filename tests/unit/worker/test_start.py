"""What a worker finds out before its first task."""

from __future__ import annotations

import socket

import pytest
from structlog.testing import capture_logs

from mirror.storage.bucket import Bucket
from mirror.storage.s3_clients import S3Clients
from worker.__main__ import look_at


def test_a_bucket_that_answers_is_worth_no_word(bucket: Bucket) -> None:
    with capture_logs() as logged:
        look_at(bucket)
    assert logged == []


def test_a_worker_says_what_is_wrong_with_its_bucket_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    bucket = Bucket(S3Clients("us-east-1", endpoint), "images")
    with capture_logs() as logged:
        look_at(bucket)
    (warning,) = logged
    assert (warning["log_level"], warning["code"]) == ("warning", "STORAGE_UNAVAILABLE")
    assert "/readyz" in warning["hint"]
