"""Make the names of targets from the names of their sources. Pure: no I/O, and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mirror.errors import InvalidInput, NameTooLong, TargetRepeated
from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import MAX_NAME_LENGTH, Reference
from mirror.records.rules import TargetRule

AssignedTarget = LocalImage | InvalidInput


@dataclass(frozen=True, slots=True)
class TargetNamer:
    public_host: str
    created_at: datetime

    def target(self, rule: TargetRule, source: Reference, digest: Digest | None = None) -> LocalImage:
        template = rule.template if ":" in rule.template else f"{rule.template}:{{tag}}"
        digest = digest or source.digest
        fields = {
            "registry": registry_component(source.registry),
            "repository": source.repository,
            "name": source.repository.rpartition("/")[2],
            "tag": str(source.tag) + rule.tag_suffix,
            "digest12": digest.hex[:12] if digest else "",
            "date": self.created_at.astimezone(UTC).strftime("%Y%m%d"),
        }
        for field, value in fields.items():
            template = template.replace(f"{{{field}}}", value)
        image = LocalImage.parse(template)
        image.require_source(registry_component(source.registry), str(source))
        name = f"{self.public_host}/{image.repository}"
        if len(name) > MAX_NAME_LENGTH:
            raise NameTooLong(name, MAX_NAME_LENGTH)
        return image

    def assign(
        self, images: Iterable[tuple[Reference, Digest | None]], rules: Sequence[TargetRule]
    ) -> list[tuple[Reference, AssignedTarget]]:
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
                    raise TargetRepeated(str(target))
                owners[target] = source
                assigned.append((source, target))
        return assigned


def needs_digest(rule: TargetRule) -> bool:
    """Whether a target of *rule* can only be named when the digest of its source is known."""
    return "{digest12}" in rule.template
