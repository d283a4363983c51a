"""``/livez``, ``/readyz`` and ``/version``, without a token, for probes."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import EXCLUDE

import mirror
from mirror.records.processes import LiveProcess
from service.api.health.readiness import Finding
from service.api.health.schema import LivenessSchema, ReadinessQuery, ReadinessSchema, VersionSchema
from service.core import service
from service.http.blueprint import api_blueprint

HEALTH: Final = api_blueprint("health", "Whether the mirror lives, whether it can work, and what it is.")


@HEALTH.get("/livez")
@HEALTH.doc(security=[])
@HEALTH.response(200, LivenessSchema)
def livez() -> dict[str, str]:
    """Answer 200 while the process works. It asks no other part."""
    return {"status": "ok"}


@HEALTH.get("/readyz")
@HEALTH.doc(security=[])
@HEALTH.arguments(ReadinessQuery, location="query", unknown=EXCLUDE)
@HEALTH.response(200, ReadinessSchema, description="The mirror can do its work, or at least serve what it holds.")
@HEALTH.alt_response(503, schema=ReadinessSchema, description="Redis or S3 does not answer, or takes no writes.")
def readyz(query: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Ask Redis and S3, at most once a second, and look for workers and schedulers that are alive.

    `?verbose` says what is wrong with each, lists the processes, and shows the free bytes of an embedded server's disk.
    Without a worker or a scheduler the status is `degraded` and the answer still 200: pulls work. Schedules that fail
    or are late are warnings.
    """
    verbose = query["verbose"] is not None
    findings = service().readiness.findings()
    statuses = {finding.status for finding in findings.values()}
    status = "unavailable" if "failed" in statuses else "degraded" if "degraded" in statuses else "ok"
    checks = {name: _check(finding, verbose=verbose) for name, finding in findings.items()}
    return {"status": status, "checks": checks}, 503 if status == "unavailable" else 200


@HEALTH.get("/version")
@HEALTH.doc(security=[])
@HEALTH.response(200, VersionSchema)
def version() -> dict[str, str]:
    """Return the release, and the version of the API."""
    return {"version": mirror.__version__, "api": "v1"}


def _check(finding: Finding, *, verbose: bool) -> dict[str, Any]:
    check: dict[str, Any] = {"status": finding.status}
    if not verbose:
        return check
    check["warnings"] = list(finding.warnings)
    if finding.detail:
        check["detail"] = finding.detail
    if finding.free_bytes is not None:
        check["free_bytes"] = finding.free_bytes
    if finding.processes is not None:
        check["processes"] = [_process(process) for process in finding.processes]
    if finding.schedules is not None:
        check["schedules"] = dict(finding.schedules)
    return check


def _process(process: LiveProcess) -> dict[str, Any]:
    return {
        "name": process.name,
        "state": process.state,
        "alive": process.is_alive,
        "age_seconds": round(process.age, 1),
    }
