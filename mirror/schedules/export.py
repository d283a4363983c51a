"""Write schedules as a ``mirror.yaml``, which the mirror reads again with the same meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from mirror.schedules.yaml_reader import scalar_of

_HEAD: Final = """\
# Schedules of the mirror. Each entry of "syncs" is a schedule as POST /v1/schedules takes it.
# It has no credentials: those for sources are in the file that MIRROR_DOCKER_CONFIG names.
"""
_ORDER: Final = (
    *("name", "enabled", "cron", "every", "time_zone", "jitter", "overlap", "catch_up", "deadline", "run_on_change"),
    *("on_delete_upstream", "delete_brake", "gone_for", "on_move_upstream", "labels", "job"),
    *("source", "target", "tags", "platforms"),
)
"""The order of the keys of a schedule and of its job. Other keys come after them, as they are."""
_WIDTH: Final = 1000
"""Characters after which a text would be folded: hardly ever."""
_DUMPER: Final[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def write_sync_file(definitions: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a ``mirror.yaml`` with *definitions*, sorted by name. The same input gives the same text."""
    syncs = [_ordered(one) for one in sorted(definitions, key=lambda one: str(one.get("name", "")))]
    if not syncs:
        return f"{_HEAD}version: 1\nsyncs: []\n"
    blocks = [_dumped([one]) for one in syncs]
    return f"{_HEAD}version: 1\nsyncs:\n" + "\n".join(blocks)


def _ordered(value: Any, level: int = 0) -> Any:
    """Return plain JSON with the keys of the schedule and of its job in a fixed order."""
    if isinstance(value, Mapping):
        keys = sorted(value, key=_rank) if level < 2 else list(value)
        return {str(key): _ordered(value[key], level + 1) for key in keys}
    if isinstance(value, list | tuple):
        return [_ordered(one, level + 1) for one in value]
    return value


def _rank(key: str) -> int:
    return _ORDER.index(key) if key in _ORDER else len(_ORDER)


def _dumped(syncs: list[Any]) -> str:
    """Return a list in block style."""
    text: str = yaml.dump(
        syncs, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH, default_flow_style=False
    )
    return text


class _Dumper(_DUMPER):  # type: ignore[misc]  # PyYAML has no types
    """Writes no anchors: what occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    """Put a text into quotes that the reader would take for a number. PyYAML does so with those of YAML 1.1."""
    style = "|" if "\n" in text else "'" if scalar_of(text) != text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
