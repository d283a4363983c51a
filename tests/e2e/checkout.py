"""``make run`` in a fresh checkout, used as a user does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import urllib3

from tests.e2e.processes import ROOT, eventually, is_alive
from tests.support.servers.process import free_port

INSTALL_WITHIN: Final = 240.0
READY_WITHIN: Final = 120.0


def fresh_checkout(destination: Path) -> Path:
    """Copy all files that git has or would add into an empty folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, destination / name)
    return destination


class MakeRun:
    """One ``make run``.

    `start` returns after it is ready, `stop` after all its processes have ended.
    """

    def __init__(self, checkout: Path, environment: Mapping[str, str]) -> None:
        self.checkout = checkout
        self.data = checkout / "data"
        self.port = free_port()
        self.log = checkout / "run.log"
        self._environment = {**environment, "MIRROR_PORT": str(self.port)}
        self._make: subprocess.Popen[bytes] | None = None
        self._http = urllib3.PoolManager(retries=False)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        # A session of its own, as in a new terminal, and without the test's virtual environment.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MIRROR_", "VIRTUAL_ENV", "AWS_"))}
        with self.log.open("wb") as output:
            self._make = subprocess.Popen(
                ["make", "run"],
                cwd=self.checkout,
                env={**inherited, **self._environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        installed = self.checkout / ".venv" / ".runs"
        eventually(
            lambda: installed.exists() or self._ended(), within=INSTALL_WITHIN, what="the packages are installed"
        )
        eventually(lambda: self._is_ready() or self._ended(), within=READY_WITHIN, what="it is ready")
        assert not self._ended(), self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 10.0) -> None:
        """Stop it, and check that all its processes end in time.

        SIGTERM goes to ``make`` alone, as from a service manager. SIGINT goes to its group, as Ctrl-C in a terminal.
        """
        assert self._make is not None
        started = self.processes()
        if number == signal.SIGINT:
            os.killpg(self._make_pid, number)
        else:
            self._make.send_signal(number)
        eventually(
            lambda: not [pid for pid in started if pid != self._make_pid and is_alive(pid)],
            within=within,
            what=f"all of {len(started)} processes have ended",
        )
        self._make.wait(within)

    def kill_supervisor(self) -> None:
        """Send SIGKILL to the supervisor alone."""
        assert self._make is not None
        os.kill(int((self.data / "lock").read_text()), signal.SIGKILL)
        self._make.wait()

    def end(self) -> None:
        """Kill all processes, whatever the test did."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._make:
            self._make.wait()
        self._http.clear()

    def processes(self) -> list[int]:
        """Return the ids of ``make`` and all its descendants."""
        found = [self._make_pid] if self._make else []
        for pid in found:
            found += _children(pid)
        return found

    def call(self, method: str, path: str, document: Mapping[str, Any] | None = None) -> Any:
        """Send a request with the admin token, and return the JSON of the response."""
        headers = {"Authorization": f"Bearer {(self.data / 'admin-token').read_text().strip()}"}
        body = json.dumps(document) if document is not None else None
        answer = self._http.request(method, f"http://{self.host}{path}", body=body, headers=headers)
        assert answer.status < 400, answer.data
        return json.loads(answer.data) if answer.data else None

    def mirror(self, source: str, target: str | None = None, *, within: float = 60.0) -> dict[str, Any]:
        """POST a job and wait for its end."""
        options = {"target": target} if target else {}
        return self.ended(self.call("POST", "/v1/jobs", {"source": source, **options})["id"], within=within)

    def ended(self, job_id: str, *, within: float) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            job: dict[str, Any] = self.call("GET", f"/v1/jobs/{job_id}")
            return job if job["finished_at"] else None

        return eventually(ask, within=within, what=f"{job_id} has ended")

    @property
    def _make_pid(self) -> int:
        assert self._make is not None
        return self._make.pid

    def _ended(self) -> bool:
        return self._make is None or self._make.poll() is not None

    def _is_ready(self) -> bool:
        """Return whether this start is ready.

        Orphans of a killed one may still send responses for a second.
        """
        if "Ready: http://" not in self.log.read_text(errors="replace"):
            return False
        try:
            return self._http.request("GET", f"http://{self.host}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
