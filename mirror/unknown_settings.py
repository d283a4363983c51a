"""Variables that look like settings and are none: a mistyped name must not be ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "MIRROR_"
OTHER_NAMES: Final = frozenset(
    {"MIRROR_URL", "MIRROR_TOKEN_FILE", "MIRROR_STORES_OF"}
    | {"MIRROR_LISTEN", "MIRROR_IMAGE", "MIRROR_CONTAINER_MEMORY"}
)
"""Variables of programs around this one: deploy/cron, the file ``env`` of `make run`, and deploy/compose."""
_SERVICE_LINK: Final = re.compile(
    r"(MIRROR_.+?)_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets in every pod for a Service, here one whose name begins with ``mirror-``."""


def unknown_settings(environment: Mapping[str, str], known: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with each ``MIRROR_`` variable that is set but not *known*, neither itself nor as a file."""
    return {
        name: f"is not a setting; {_meant(name, known)}"
        for name, value in environment.items()
        if name.startswith(PREFIX)
        and value.strip()
        and name not in OTHER_NAMES
        and name.removesuffix("_FILE") not in known
        and not _is_service_link(name, environment)
    }


def _is_service_link(name: str, environment: Mapping[str, str]) -> bool:
    found = _SERVICE_LINK.fullmatch(name)
    return found is not None and f"{found[1]}_SERVICE_HOST" in environment


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the question whether the nearest known name was meant. The prefix, which all share, is not compared."""
    stem = name.removesuffix("_FILE")
    bare = [setting.removeprefix(PREFIX) for setting in known]
    nearest = difflib.get_close_matches(stem.removeprefix(PREFIX).upper(), bare, n=1)
    if not nearest:
        return "docs/reference/settings.md lists all of them"
    return f"did you mean {PREFIX}{nearest[0]}{name[len(stem) :]}?"
