"""Build the schedules of an import: names, jobs that are checked, and a timetable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from marshmallow import ValidationError

from mirror.copying.naming import TargetNamer
from mirror.errors import DocumentMalformed, InvalidInput, InvalidReference, quoted
from mirror.oci.local_image import LocalImage
from mirror.oci.reference import DOCKER_HUB, MAX_NAME_LENGTH, Reference, RepositoryPattern, normalise_registry
from mirror.records.job_request import MOST_IMAGES, ImageRequest, ImageRequestSchema
from mirror.records.rule_fields import Duration
from mirror.records.rules import CANONICAL_TARGET
from mirror.records.schedule import Timetable
from mirror.schedules import slots
from mirror.schedules.importers.document import Place, Report

MOST_SCHEDULES: Final = 1000
_LONGEST_NAME: Final = 63
_SPLIT: Final = "Split the text into several, and import one after the other."
_OTHER_CHARACTERS: Final = re.compile(r"[^a-z0-9._-]+", re.ASCII)
_IMAGE: Final = ImageRequestSchema()
_DURATION: Final = Duration()
_NAMER: Final = TargetNamer("", datetime(2000, 1, 1, tzinfo=UTC))
"""Only the shapes of names are checked. The length of the mirror's own host is added when a job is created."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image, a repository or a wildcard of a job, and the name of its target.

    A selection of tags has a target without a tag. *is_wildcard* means that its repositories are not known.
    """

    document: dict[str, Any]
    place: Place
    target: LocalImage
    is_selection: bool
    is_wildcard: bool


class Drafts:
    """The schedules of an import as they come to be."""

    def __init__(self, report: Report, default_timetable: Mapping[str, Any]) -> None:
        self.report = report
        self._default = dict(default_timetable)
        self._defaulted = 0
        self._images = 0
        self._numbers: dict[str, int] = {}
        self._schedules: list[dict[str, Any]] = []

    def target(self, text: str, place: Place) -> Reference:
        """Read the name of a target. Its registry is dropped, and a note says so."""
        try:
            reference = Reference.parse(text)
        except InvalidInput as error:
            raise place.malformed(_clause("the target", error)) from None
        self.drop_host(reference.registry)
        return reference

    def drop_host(self, host: str) -> None:
        """Note that targets lose this host."""
        self.report.note(
            f"Targets lose their host '{host}'. The mirror keeps every image in its own bucket, and serves it under "
            "its own host."
        )

    def image(self, place: Place, document: dict[str, Any]) -> Image:
        """Check one image of a job. Raises DocumentMalformed for *place*."""
        self._images += 1
        if self._images > MOST_IMAGES:
            reason = f"the text has more than {MOST_IMAGES} images and selections"
            raise DocumentMalformed(reason, place.line, place.column, hint=_SPLIT)
        try:
            request: ImageRequest = _IMAGE.load(document)
        except ValidationError as error:
            raise place.malformed(_first_problem(error.messages)) from None
        except InvalidInput as error:
            raise place.malformed(_clause("the rule", error)) from None
        try:
            return _checked(document, place, request)
        except InvalidInput as error:
            raise place.malformed(_clause("the source", error)) from None

    def add(
        self, name: str, images: Iterable[Image], timetable: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        """Add a schedule for the images. Several are added where one job cannot have all of them."""
        jobs = self._jobs(images)
        if len(jobs) > 1:
            self.report.note(
                f"'{_usable(name)}' became {len(jobs)} schedules. Two selections of one job cannot share a target, and "
                "a wildcard is alone in its job."
            )
        for job in jobs:
            if len(self._schedules) >= MOST_SCHEDULES:
                raise DocumentMalformed(f"the text makes more than {MOST_SCHEDULES} schedules", hint=_SPLIT)
            self._defaulted += timetable is None
            when = self._default if timetable is None else timetable
            self._schedules.append({"name": self._name(name), **when, **fields, "job": job})

    def finish(self) -> tuple[dict[str, Any], ...]:
        """Return the schedules, and note where their timetable comes from."""
        if self._defaulted:
            fields = ", ".join(f"{name}: {value}" for name, value in self._default.items())
            self.report.note(
                f"The text says no time for {self._defaulted} of the schedules. They have the timetable that the "
                f"import was given: {fields}."
            )
        return tuple(self._schedules)

    def _jobs(self, images: Iterable[Image]) -> list[dict[str, Any]]:
        """Return the jobs for the images. Two selections of one job never share a target, and a wildcard is alone."""
        parts: list[list[Image]] = [[]]
        single: dict[LocalImage, Image] = {}
        level: dict[str, int] = {}
        listed = list(images)
        for image in listed:
            if image.is_selection:
                continue
            other = single.setdefault(image.target, image)
            if other is image:
                parts[0].append(image)
                level[image.target.repository] = 1
            elif other.document != image.document:
                self.report.refuse(image.place.malformed(f"its target {quoted(str(image.target))} is taken already"))
        for image in listed:
            if image.is_selection and not image.is_wildcard:
                number = level.get(image.target.repository, 0)
                level[image.target.repository] = number + 1
                while len(parts) <= number:
                    parts.append([])
                parts[number].append(image)
        wildcards = [[image] for image in listed if image.is_wildcard]
        return [_job(part) for part in (*parts, *wildcards) if part]

    def _name(self, text: str) -> str:
        """Return a name of a schedule that is not used yet."""
        base = _usable(text)
        number = self._numbers[base] = self._numbers.get(base, 0) + 1
        if number == 1:
            return base
        suffix = f"-{number}"
        return self._name(f"{base[: _LONGEST_NAME - len(suffix)]}{suffix}")


def check_timetable(timetable: Mapping[str, str], place: Place) -> None:
    """Raise DocumentMalformed for *place* if a timetable that was read has no times."""
    every = _DURATION.deserialize(timetable["every"]) if "every" in timetable else None
    found = slots.problems(Timetable(timetable.get("cron"), every, timetable.get("time_zone", "UTC")))
    if found:
        raise place.malformed(next(iter(found.values())))


def schedule_name(source: str) -> str:
    """Return the name of a schedule for a source: ``alpine``, ``bitnami-redis`` or ``quay.io-a-b``."""
    try:
        name = RepositoryPattern.parse(source).name if source.endswith("/*") else Reference.parse(source).name
    except InvalidInput:
        return ""
    return name.removeprefix(f"{DOCKER_HUB}/").removeprefix("library/")


def registry_name(text: str) -> str:
    """Return a registry for a message. A text that is no registry's name may be a secret, and is not shown."""
    try:
        return quoted(normalise_registry(text, ""), MAX_NAME_LENGTH)
    except InvalidInput:
        return "this registry"


def _usable(text: str) -> str:
    """Return *text* as a name of a schedule."""
    return _OTHER_CHARACTERS.sub("-", text.lower()).strip("-._")[:_LONGEST_NAME] or "import"


def _job(images: list[Image]) -> dict[str, Any]:
    """Return the request of a job. It shares nothing with another one."""
    documents = [deepcopy(image.document) for image in images]
    return documents[0] if len(documents) == 1 else {"images": documents}


def _checked(document: dict[str, Any], place: Place, request: ImageRequest) -> Image:
    """Check the names as the submission of a job does. Raises InvalidInput."""
    [rule] = request.targets or (CANONICAL_TARGET,)
    if request.tags is None and not request.source.endswith("/*"):
        target = _NAMER.target(rule, Reference.parse(request.source))
        return Image(document, place, target, is_selection=False, is_wildcard=False)
    source = RepositoryPattern.parse(request.source)
    _NAMER.require_possible(rule, source)
    if source.is_wildcard:
        return Image(document, place, LocalImage(""), is_selection=True, is_wildcard=True)
    target = _NAMER.target(rule, source.tagged("x"))
    return Image(document, place, LocalImage(target.repository), is_selection=True, is_wildcard=False)


def _clause(what: str, error: InvalidInput) -> str:
    """Return what is wrong. The reason of a malformed name does not repeat it: it may have a password in it."""
    if isinstance(error, InvalidReference):
        return f"{what} is not a valid name: {error.reason}"
    return f"{error.message}. {error.hint}"


def _first_problem(messages: Any) -> str:
    """Return the first message of a schema, with the names of its fields."""
    names: list[str] = []
    while isinstance(messages, Mapping | list):
        if isinstance(messages, Mapping):
            key, messages = next(iter(messages.items()))
            names.append(f"[{key}]" if isinstance(key, int) else f".{key}")
        else:
            messages = messages[0]
    return f"the job's {''.join(names).removeprefix('.')}: {messages}"
