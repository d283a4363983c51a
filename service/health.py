"""``/livez``, ``/readyz`` and ``/version``: open to everybody, for probes."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import EXCLUDE

import mirror
from service.api_blueprint import api_blueprint
from service.readiness import Finding
from service.schemas.health import LivenessSchema, ReadinessQuery, ReadinessSchema, VersionSchema
from service.services import services

HEALTH: Final = api_blueprint("health", "Whether the mirror lives, whether it can work, and what it is.")


@HEALTH.get("/livez")
@HEALTH.doc(security=[])
@HEALTH.response(200, LivenessSchema)
def livez() -> dict[str, str]:
    """Answer as long as the process does; touches nothing."""
    return {"status": "ok"}


@HEALTH.get("/readyz")
@HEALTH.doc(security=[])
@HEALTH.arguments(ReadinessQuery, location="query", unknown=EXCLUDE)
@HEALTH.response(200, ReadinessSchema, description="The mirror can do its work.")
@HEALTH.alt_response(503, schema=ReadinessSchema, description="A part that the mirror needs does not answer.")
def readyz(query: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Ask Redis and S3, at most once a second; with `?verbose` say what is wrong with each."""
    verbose = query["verbose"] is not None
    findings = services().readiness.findings()
    ready = all(finding.ok for finding in findings.values())
    checks = {name: _check(finding, verbose=verbose) for name, finding in findings.items()}
    return {"status": "ok" if ready else "unavailable", "checks": checks}, 200 if ready else 503


@HEALTH.get("/version")
@HEALTH.doc(security=[])
@HEALTH.response(200, VersionSchema)
def version() -> dict[str, str]:
    """The release, and the version of the API."""
    return {"version": mirror.__version__, "api": "v1"}


def _check(finding: Finding, *, verbose: bool) -> dict[str, Any]:
    check: dict[str, Any] = {"status": "ok" if finding.ok else "failed"}
    if verbose and finding.detail:
        check["detail"] = finding.detail
    if verbose:
        check["warnings"] = list(finding.warnings)
    return check
