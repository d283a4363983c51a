"""Properties of all names, tested with generated names and texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given

from mirror.errors import InvalidDigest, InvalidReference, InvalidTag, MirrorError, TargetReserved
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import MAX_NAME_LENGTH, Reference
from tests.support.names import default_target
from tests.unit.oci.generated import digests, nearly_names, references, registries, repositories, tags

REPOSITORY = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
"""The grammar of the distribution spec, written here independently of the code."""
REGISTRY = r"([a-z0-9-]+(\.[a-z0-9-]+)+(:\d+)?|localhost(:\d+)?|[a-z0-9-]+:\d+)"
LONGEST_MESSAGE = 2_000


def refusal_of(parse: object, text: str) -> MirrorError | None:
    assert callable(parse)
    try:
        parse(text)
    except (InvalidReference, InvalidTag, InvalidDigest) as refused:
        return refused
    return None


@given(references())
def test_the_text_of_a_reference_parses_to_the_same_reference(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(nearly_names)
def test_any_text_is_parsed_or_is_refused_with_a_short_message(text: str) -> None:
    for parse in (Reference.parse, LocalImage.parse):
        refused = refusal_of(parse, text)
        if refused is not None:
            assert 0 < len(refused.message) < LONGEST_MESSAGE
            assert refused.message.isprintable()
            assert refused.hint


@given(nearly_names)
def test_a_parsed_reference_follows_the_grammar_and_parses_again_to_the_same(text: str) -> None:
    if refusal_of(Reference.parse, text) is not None:
        return
    reference = Reference.parse(text)
    assert re.fullmatch(REGISTRY, reference.registry)
    assert re.fullmatch(REPOSITORY, reference.repository)
    assert len(reference.name) <= MAX_NAME_LENGTH
    assert reference.tag is None or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", reference.tag)
    assert reference.tag or reference.digest
    assert Reference.parse(str(reference)) == reference


@given(references(), references())
def test_different_sources_have_different_default_targets(one: Reference, other: Reference) -> None:
    targets = [default_target(source).repository for source in (one, other)]
    assert (targets[0] == targets[1]) == (one.name == other.name)


@given(references())
def test_a_default_target_is_legal_and_reserved_for_its_source(source: Reference) -> None:
    target = default_target(source)
    assert LocalImage.parse(str(target)) == target
    assert target.registry_component == registry_component(source.registry)
    target.require_source(registry_component(source.registry), str(source))


@given(registries(), registries(), repositories)
def test_no_registry_may_use_the_name_of_another(owner: str, intruder: str, repository: str) -> None:
    if owner == intruder:
        return
    assert registry_component(owner) != registry_component(intruder)
    target = LocalImage(f"{registry_component(owner)}/{repository}", "1")
    with pytest.raises(TargetReserved):
        target.require_source(registry_component(intruder), f"{intruder}/{repository}:1")


@given(repositories, tags, digests)
def test_the_text_of_a_local_image_parses_to_the_same_image(repository: str, tag: str, digest: object) -> None:
    for text in (repository, f"{repository}:{tag}", f"{repository}@{digest}"):
        assert str(LocalImage.parse(text)) == text
