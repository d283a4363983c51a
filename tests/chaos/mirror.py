"""The system under test: the whole product on its own stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.api.live_service import LiveService
from tests.e2e.processes import Process
from tests.support.fakes.registry import FakeRegistry
from tests.support.servers import ValkeyServer, VersityGateway

WORKERS: Final = 3
PREFIX: Final = "chaos"


@dataclass(frozen=True)
class Mirror:
    """A service, workers and a scheduler, with their Valkey and S3.

    After a kill, Valkey has every write, and S3 has its open uploads.
    """

    registry: FakeRegistry
    valkey: ValkeyServer
    s3: VersityGateway
    api: LiveService
    workers: list[Process]
    scheduler: Process
    logs: Path

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[Mirror]:
        """Run all of it during the block. The logs are in *directory*."""
        for name in ("valkey", "s3", "api"):
            (directory / name).mkdir()
        with ExitStack() as running:
            registry = running.enter_context(FakeRegistry())
            valkey = running.enter_context(ValkeyServer(directory / "valkey", append_only=True))
            s3 = running.enter_context(VersityGateway(directory / "s3"))
            settings = {
                "MIRROR_INSECURE_REGISTRIES": registry.host,
                "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
                "MIRROR_MEMORY_BUDGET": "32MiB",
            }
            api = running.enter_context(LiveService(directory / "api", valkey, s3, PREFIX, **settings))
            environment = {**s3.settings_env(PREFIX), "MIRROR_REDIS_URL": valkey.url, **settings}

            def process(module: str, name: str) -> Process:
                return running.enter_context(Process(module, environment, directory / f"{name}.log"))

            workers = [process("worker", f"worker-{number}") for number in range(WORKERS)]
            yield cls(registry, valkey, s3, api, workers, process("worker.scheduler", "scheduler"), directory)

    def log_of(self, job_id: str, lines: int = 40) -> str:
        """Return the last log lines about a job."""
        found = [line for path in self.logs.glob("*.log") for line in path.read_text().splitlines() if job_id in line]
        return "\n".join(found[-lines:])

    def tails(self, size: int = 3000) -> str:
        """Return the end of every log."""
        paths = [*sorted(self.logs.glob("*.log")), self.valkey.log, self.s3.log]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-size:]}" for path in paths)
