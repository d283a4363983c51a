"""The core of a worker process, built once before its first fork."""

from __future__ import annotations

from functools import cache

from mirror.redis.failures import PATIENT
from mirror.settings import Settings
from mirror.wiring import Core, build


@cache
def worker_core() -> Core:
    """Return this process's core, built from its environment. Raises InvalidSettings."""
    return build(Settings.load(Settings.require_stores), retries=PATIENT)
