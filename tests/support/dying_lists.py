"""``python -m tests.support.dying_lists``: processes that add to lists of referrers. Some die at a write to S3.

The input is JSON: rounds of `Adding`. All processes of a round run at the same time. The output is JSON, too: how each
process of each round ended. 0 means that it has added, `BUSY` that the tag was busy, and -9 that it died.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pytest

from mirror.catalog.tag_change import COMMIT_TIMEOUT
from mirror.errors import TagBusy
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.referrer import Referrer
from mirror.settings import Settings
from mirror.wiring import Core, build
from tests.support.dying_release import die_at
from tests.support.referrer_set import KIND, REPOSITORY, ReferrerSet
from tests.support.servers.process import REPOSITORY as CHECKOUT

BUSY: Final = 3
_FAILED: Final = 4


@dataclass(frozen=True, slots=True)
class Adding:
    """A process that lists *referrers* (digest, size, media type). It dies after so many writes, or never for 0."""

    subject: str
    referrers: tuple[tuple[str, int, str], ...]
    dies_after: int

    @classmethod
    def of(cls, signed: ReferrerSet, *numbers: int, dies_after: int = 0) -> Adding:
        found = [referrer.descriptor for referrer in signed.referrers(*numbers)]
        entries = tuple((str(one.digest), one.size, one.media_type) for one in found)
        return cls(str(signed.subject.digest), entries, dies_after)

    def run(self, core: Core) -> int:
        if self.dies_after:
            die_at(self.dies_after, after=True)
        referrers = [
            Referrer(Descriptor(kind, Digest.parse(digest), size), KIND) for digest, size, kind in self.referrers
        ]
        try:
            core.referrer_lists.add(REPOSITORY, Digest.parse(self.subject), referrers, by=f"job_{os.getpid()}")
        except TagBusy:
            return BUSY
        return 0


def run_rounds(core: Core, rounds: Sequence[Sequence[Adding]]) -> list[list[int]]:
    """Run the rounds in processes of their own, on the stores of *core*. Return how each process ended."""
    environment = {**os.environ, "MIRROR_REDIS_URL": str(core.settings.redis_url)}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.dying_lists"],
        cwd=CHECKOUT,
        env=environment,
        input=json.dumps([[asdict(adding) for adding in group] for group in rounds]),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[list[int]] = json.loads(ended.stdout)
    assert not any(_FAILED in group for group in found), ended.stderr
    return found


def main() -> None:
    core = build(Settings.load(Settings.require_stores))
    core.bucket.prepare(commit_timeout=COMMIT_TIMEOUT)
    rounds: list[list[dict[str, Any]]] = json.load(sys.stdin)
    ended = []
    for group in rounds:
        processes = [_fork(core, Adding(**adding)) for adding in group]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        ended.append(statuses)
    json.dump(ended, sys.stdout)


def _fork(core: Core, adding: Adding) -> int:
    """Add in a new process, which inherits no open connection, as a work horse. A busy tag is not waited for long."""
    if process := os.fork():
        return process
    code = _FAILED
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mirror.catalog.tag_change._LOCK_TIMEOUT", 0.3)
            code = adding.run(core)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
