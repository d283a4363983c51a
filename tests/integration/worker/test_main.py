"""What a worker checks before its first task."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.storage.bucket import Bucket
from mirror.storage.s3 import S3Clients
from tests.support.servers.process import REPOSITORY
from worker.__main__ import check_bucket


def test_nothing_is_logged_about_a_bucket_that_responds(bucket: Bucket) -> None:
    with capture_logs() as logged:
        check_bucket(bucket)
    assert logged == []


def test_a_worker_says_what_is_wrong_with_its_bucket_and_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
    bucket = Bucket(S3Clients("us-east-1", endpoint), "images")
    with capture_logs() as logged:
        check_bucket(bucket)
    (warning,) = logged
    assert (warning["log_level"], warning["code"]) == ("warning", "STORAGE_UNAVAILABLE")
    assert "/readyz" in warning["hint"]


@pytest.mark.parametrize("module", ["service", "worker", "worker.scheduler"])
def test_every_process_refuses_to_start_with_all_that_is_wrong(module: str, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    wrong = {"MIRROR_MEMORY_BUGDET": "1GiB", "MIRROR_LOG_LEVEL": "loud", "MIRROR_REDIS_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, "-m", module]
    answer = subprocess.run(
        command, cwd=REPOSITORY, env=kept | wrong | {"MIRROR_DATA_DIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.splitlines()[1:] == [
        "  MIRROR_LOG_LEVEL: must be debug, info, warning or error",
        "  MIRROR_MEMORY_BUGDET: is not a setting; did you mean MIRROR_MEMORY_BUDGET?",
        "  MIRROR_S3_BUCKET: must be set",
    ]
