"""Make the names of targets from those of their sources. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from mirror.oci.digest import Digest
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import Reference
from mirror.records.rules import TargetRule


def needs_digest(rule: TargetRule) -> bool:
    """Whether the name can only be made after the digest of the source is known."""
    return "{digest12}" in rule.template


def target_name(rule: TargetRule, source: Reference, digest: Digest | None, moment: datetime) -> LocalImage:
    """Return the target of *source*. Raises InvalidReference, InvalidTag."""
    template = rule.template if ":" in rule.template else f"{rule.template}:{{tag}}"
    fields = {
        "registry": registry_component(source.registry),
        "repository": source.repository,
        "name": source.repository.rpartition("/")[2],
        "tag": str(source.tag),
        "digest12": digest.hex[:12] if digest else "",
        "date": moment.astimezone(UTC).strftime("%Y%m%d"),
    }
    for field, value in fields.items():
        template = template.replace(f"{{{field}}}", value)
    return LocalImage.parse(template)
