"""Make the names of targets from the names of their sources. Pure: no I/O, and no clock.

A rule is applied in this order: the repository loses its prefix, the replacements are made in it, the tag is rewritten
and gets its suffix, and all of it fills the template. The result obeys the grammar of names, or it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from mirror.errors import InvalidInput, InvalidReference, InvalidTemplate, NameTooLong, TargetRepeated
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.name_template import NameTemplate, TagRewrite
from mirror.oci.reference import MAX_NAME_LENGTH, Reference, RepositoryPattern
from mirror.records.rules import TargetRule

_SAMPLE: Final = "x"
"""The shortest repository and tag. What is refused for them is refused for all."""
_SAMPLE_DIGEST: Final = Digest("sha256", "0" * 64)

AssignedTarget = LocalImage | InvalidInput
"""The target of an image, or why it cannot have one."""


@dataclass(frozen=True, slots=True)
class TargetNamer:
    """Names the targets of one job.

    *created_at* is when the job was created: so a date in a name does not depend on when a task runs. *public_host* is
    the mirror's own host, which counts in the length of a name.
    """

    public_host: str
    created_at: datetime

    def target(self, rule: TargetRule, source: Reference, digest: Digest | None = None) -> LocalImage:
        """Return the target of *source* by *rule*. *digest* is the source's, and may be None unless `needs_digest`.

        A source without a tag is kept by its digest, if the rule's template needs no tag elsewhere.
        Raises InvalidTemplate, InvalidReference, InvalidTag, NameTooLong or TargetReserved.
        """
        template, rewrite = _prepared(rule)
        repository = _rewritten_repository(rule, source.repository)
        values = {
            "registry": registry_component(source.registry),
            "repository": repository,
            "name": repository.rpartition("/")[2],
            "date": self.created_at.astimezone(UTC).strftime("%Y%m%d"),
        }
        if digest := digest or source.digest:
            values["digest12"] = digest.hex[:12]
        if source.tag is not None:
            values["tag"] = (rewrite.apply(source.tag) if rewrite else source.tag) + rule.tag_suffix
            image = _parsed(template.fill(values))
        else:
            image = _without_tag(rule, template, values, source.digest)
        self._require(image, source)
        return image

    def assign(
        self, images: Iterable[tuple[Reference, Digest | None]], rules: Sequence[TargetRule]
    ) -> list[tuple[Reference, AssignedTarget]]:
        """Return a target of each image by each rule, image by image. An image may have no valid one.

        Raises TargetRepeated, with both sources, if two of the targets are equal.
        """
        assigned: list[tuple[Reference, AssignedTarget]] = []
        owners: dict[LocalImage, Reference] = {}
        for source, digest in images:
            for rule in rules:
                try:
                    target = self.target(rule, source, digest)
                except InvalidInput as refused:
                    assigned.append((source, refused))
                    continue
                if target in owners:
                    raise TargetRepeated(str(target), (str(owners[target]), str(source)))
                owners[target] = source
                assigned.append((source, target))
        return assigned

    def require_possible(self, rule: TargetRule, source: RepositoryPattern) -> None:
        """Raise what every image of *source* would be refused with, so that a request is refused at once.

        The rewriting of tags is left out, and so are the replacements in repositories that are not known yet. They may
        turn a name that is refused into one that is not.
        """
        repository, known = source.repository, replace(rule, tag=None)
        if source.is_wildcard:
            repository = f"{repository}/{_SAMPLE}" if repository else _SAMPLE
            known = replace(known, replace=())
        self.target(known, Reference(source.registry, repository, _SAMPLE), _SAMPLE_DIGEST)

    def _require(self, image: LocalImage, source: Reference) -> None:
        image.require_source(registry_component(source.registry), str(source))
        name = f"{self.public_host}/{image.repository}"
        if len(name) > MAX_NAME_LENGTH:
            raise NameTooLong(name, MAX_NAME_LENGTH)


def needs_digest(rule: TargetRule) -> bool:
    """Whether a target of *rule* can only be named when the digest of its source is known. Raises InvalidTemplate."""
    return "digest12" in _prepared(rule)[0].fields


@lru_cache(maxsize=256)
def _prepared(rule: TargetRule) -> tuple[NameTemplate, TagRewrite | None]:
    rewrite = TagRewrite.parse(rule.tag.regex, rule.tag.to) if rule.tag else None
    return NameTemplate.parse(rule.template), rewrite


def _rewritten_repository(rule: TargetRule, repository: str) -> str:
    """Take the leading components *strip_prefix* away, and make the replacements in their order.

    A replacement is refused as soon as its result is too long for any name. So a few of them cannot fill the memory.
    """
    if prefix := rule.strip_prefix.strip("/"):
        repository = repository.removeprefix(f"{prefix}/")
    for before, after in rule.replace:
        repository = repository.replace(before, after)
        if len(repository) > MAX_NAME_LENGTH:
            raise NameTooLong(repository, MAX_NAME_LENGTH)
    return repository


def _without_tag(
    rule: TargetRule, template: NameTemplate, values: Mapping[str, str], digest: Digest | None
) -> LocalImage:
    """Return the target of a source that has only a digest. It is kept by that, if the template does not name a tag."""
    if "tag" not in template.fields:
        return _parsed(template.fill(values))
    if template.repository is None or rule.tag_suffix:
        raise InvalidTemplate(rule.template, "the source has a digest and no tag")
    return LocalImage(_parsed(template.repository.fill(values)).repository, digest=digest)


def _parsed(text: str) -> LocalImage:
    if "@" in text:
        raise InvalidReference(text, "a target is named by a tag, never by a digest")
    return LocalImage.parse(text)
