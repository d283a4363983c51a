"""Whether HEADs of manifests are worth sending to a registry."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic
from typing import Final, TypeVar

import structlog

from mirror.oci.reference import Reference
from mirror.registry.throttle import Throttle

USELESS_SECONDS: Final = 900.0
"""Seconds for which no HEAD is sent to a registry whose HEADs told nothing. A GET costs little where HEADs fail."""
_MOST: Final = 512
_LOG = structlog.get_logger(__name__)
K = TypeVar("K")
V = TypeVar("V")


class Heads:
    """What this process has found out, and what others have through the shared admission. Safe to share.

    A HEAD that told nothing proves little: the tag may be missing. Only a GET of the same name that works afterwards
    shows that the registry's HEADs are of no use.
    """

    def __init__(self, admission: Throttle) -> None:
        self._admission = admission
        self._lock = threading.Lock()
        self._unanswered: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._useless: OrderedDict[str, float] = OrderedDict()

    def are_useless(self, registry: str) -> bool:
        """Whether to do without HEADs there for now; call it after the registry was permitted to be asked."""
        with self._lock:
            if monotonic() < self._useless.get(registry, 0.0):
                return True
        return self._admission.is_headless(registry)

    def told_nothing(self, reference: Reference) -> None:
        """A HEAD of *reference* failed, named no digest, or was left out."""
        if self.are_useless(reference.registry):
            return
        with self._lock:
            _note(self._unanswered, _key(reference), None)

    def was_served(self, reference: Reference) -> None:
        """A GET of *reference* has worked."""
        with self._lock:
            if _key(reference) not in self._unanswered:
                return
            del self._unanswered[_key(reference)]
            _note(self._useless, reference.registry, monotonic() + USELESS_SECONDS)
        self._admission.note_headless(reference.registry)
        _LOG.info("HEADs tell nothing here and are left out", registry=reference.registry, seconds=USELESS_SECONDS)


def _key(reference: Reference) -> tuple[str, str, str]:
    return reference.registry, reference.repository, reference.target


def _note(notes: OrderedDict[K, V], key: K, value: V) -> None:
    notes[key] = value
    notes.move_to_end(key)
    if len(notes) > _MOST:
        notes.popitem(last=False)
