"""Read the configuration of another tool as schedules of the mirror."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from mirror.schedules.importers import flux_mirror, image_syncer, kuik, regsync, skopeo
from mirror.schedules.importers.document import Imported, Report
from mirror.schedules.importers.drafts import Drafts
from mirror.schedules.yaml_reader import Node, read_yaml, read_yaml_stream

# "mirror", the format of mirror.yaml, joins here and in the tables below with its own reader.
ImportFormat = Literal["regsync", "skopeo", "image-syncer", "flux-mirror", "kuik"]
IMPORT_FORMATS: Final[tuple[ImportFormat, ...]] = get_args(ImportFormat)
DEFAULT_TIMETABLE: Final[Mapping[str, Any]] = MappingProxyType({"every": "24h"})
IGNORED_KEYS: Final[Mapping[ImportFormat, Mapping[str, str]]] = {
    "regsync": regsync.IGNORED,
    "skopeo": skopeo.IGNORED,
    "image-syncer": image_syncer.IGNORED,
    "flux-mirror": flux_mirror.IGNORED,
    "kuik": kuik.IGNORED,
}
"""The keys of each format that have no effect here, and why. docs/reference/import.md lists the same."""
_READERS: Final[Mapping[ImportFormat, Callable[[Node, Drafts], None]]] = {
    "regsync": regsync.read_regsync,
    "skopeo": skopeo.read_skopeo,
    "image-syncer": image_syncer.read_image_syncer,
    "flux-mirror": flux_mirror.read_flux_mirror,
}


def read_import(
    import_format: ImportFormat, text: str, default_timetable: Mapping[str, Any] = DEFAULT_TIMETABLE
) -> Imported:
    """Turn *text* into schedules, each a document as ``POST /v1/schedules`` takes it. No I/O.

    *default_timetable* has the fields of the timetable of each schedule for which the text says none. An entry that
    cannot become a schedule is refused, and the others are read. Raises DocumentMalformed if the text cannot be read at
    all, is of another format, or makes too much.
    """
    report = Report(IGNORED_KEYS[import_format])
    drafts = Drafts(report, default_timetable)
    if import_format == "kuik":
        kuik.read_kuik(read_yaml_stream(text), drafts)
    else:
        _READERS[import_format](read_yaml(text), drafts)
    schedules = drafts.finish()
    return Imported(schedules, *report.findings, tuple(report.notes))
