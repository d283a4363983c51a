"""Read the variables of this process and collect every problem, unknown names included."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from environs import FileAwareEnv

PREFIX: Final = "MIRROR_"
_OTHER_NAMES: Final = frozenset(
    {"MIRROR_URL", "MIRROR_TOKEN_FILE", "MIRROR_STORES_OF"}
    | {"MIRROR_LISTEN", "MIRROR_IMAGE", "MIRROR_CONTAINER_MEMORY"}
)
"""Variables of other programs: deploy/cron, deploy/compose, and the file ``env`` that `make run` writes."""
_SERVICE_LINK: Final = re.compile(
    r"(MIRROR_.+?)_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""The names that Kubernetes sets in every pod for a Service, here for one whose name begins with ``mirror-``."""


class InvalidSettings(Exception):
    """Some settings cannot be used. ``problems`` maps each variable to what is wrong with it."""

    def __init__(self, problems: Mapping[str, list[str]]) -> None:
        self.problems = problems
        lines = [f"  {name}: {text}" for name, texts in sorted(problems.items()) for text in texts]
        super().__init__("these settings cannot be used:\n" + "\n".join(lines))


def read_environment(parsers: Mapping[str, Callable[[str], Any]]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Read the variable of each setting, or the file that the variable with ``_FILE`` names.

    *parsers* maps the name of a setting, such as ``log_level``, to its parser. Returns the values that are set and can
    be used, and the problems by variable. An empty variable counts as not set.
    """
    values: dict[str, Any] = {}
    variables = {name: f"{PREFIX}{name.upper()}" for name in parsers}
    problems = _unknown_names(variables.values())
    environment = FileAwareEnv(strip_whitespace=True)
    for name, variable in variables.items():
        try:
            text: str = environment.str(variable, "").strip()
        except (OSError, ValueError):
            problems[variable] = [f"{variable}_FILE does not name a readable file"]
            continue
        try:
            if text:
                values[name] = parsers[name](text)
        except ValueError as error:
            problems[variable] = [str(error)]
    return values, problems


def _unknown_names(known: Iterable[str]) -> dict[str, list[str]]:
    """Return the problem of each ``MIRROR_`` variable that is not a setting. A mistyped name must not be ignored."""
    names = sorted(known)
    known_names = set(names)
    return {
        name: [f"is not a setting; {_suggestion(name, names)}"]
        for name, value in os.environ.items()
        if name.startswith(PREFIX)
        and value.strip()
        and name not in _OTHER_NAMES
        and not {name, name.removesuffix("_FILE")} & known_names
        and not _is_service_link(name)
    }


def _is_service_link(name: str) -> bool:
    found = _SERVICE_LINK.fullmatch(name)
    return found is not None and f"{found[1]}_SERVICE_HOST" in os.environ


def _suggestion(name: str, known: list[str]) -> str:
    """Suggest the nearest known name. The prefix is not compared, because all names share it."""
    stem = name.removesuffix("_FILE")
    bare = [setting.removeprefix(PREFIX) for setting in known]
    nearest = difflib.get_close_matches(stem.removeprefix(PREFIX).upper(), bare, n=1)
    if not nearest:
        return "docs/reference/settings.md lists all of them"
    return f"did you mean {PREFIX}{nearest[0]}{name[len(stem) :]}?"
