"""The registries whose images the mirror holds: the hosts that its repositories begin with.

A Redis script skips from one first component to the next. So the cost grows with the number of first components, not
with the number of repositories.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mirror.errors import CatalogRebuilding
from mirror.oci.local_image import registry_of_component
from mirror.redis.client import Redis
from mirror.redis.scripts import load_script

MOST_REGISTRIES: Final = 100
_STEPS: Final = 1000
"""First components that one run of the script reads. It takes Redis a few milliseconds."""
_MOST_RUNS: Final = 10
_LIST: Final = load_script("mirror.catalog", "registries.lua", constants={"STEPS": _STEPS})


class Registries(NamedTuple):
    """Registries as ``host[:port]``. ``is_complete`` is False if there may be more."""

    hosts: tuple[str, ...]
    is_complete: bool


class MirroredRegistries:
    """Lists registries from the index. Safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._list = redis.script(_LIST)

    def read(self) -> Registries:
        """Return at most `MOST_REGISTRIES` registries, in lexical order of their first components.

        At most 10 000 first components are read. Raises CatalogRebuilding and RedisUnavailable.
        """
        hosts: list[str] = []
        low = "-"
        for _ in range(_MOST_RUNS):
            listed = self._list(args=[low])
            if listed is None:
                raise CatalogRebuilding
            low, components = listed
            hosts += [host for component in components if (host := registry_of_component(component))]
            if not low or len(hosts) > MOST_REGISTRIES:
                break
        return Registries(tuple(hosts[:MOST_REGISTRIES]), not low and len(hosts) <= MOST_REGISTRIES)
