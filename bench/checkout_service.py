"""The service of a checkout, for benchmarks that compare two versions of the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.api.live_service import LiveService
from tests.support.servers import S3Server, ValkeyServer


class CheckoutService(LiveService):
    """``python -m service`` with the code of *checkout*."""

    def __init__(
        self, checkout: Path, directory: Path, valkey: ValkeyServer, s3: S3Server, prefix: str, **settings: str
    ) -> None:
        directory.mkdir(exist_ok=True)
        super().__init__(directory, valkey, s3, prefix, PYTHONPATH=str(checkout), **settings)
        self._checkout = checkout

    def command(self) -> list[str]:
        return [str(python_of(self._checkout)), "-m", "service"]


def python_of(checkout: Path) -> Path:
    """Return the Python of the checkout's virtual environment, or this one if it has none."""
    own = checkout / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


def described(checkout: Path) -> str:
    """Return the commit of *checkout*, marked if files were changed since."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or "of unknown commit"
