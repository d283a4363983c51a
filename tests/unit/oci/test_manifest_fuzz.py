"""The parser parses or refuses any bytes that a registry sends. It raises no other error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ManifestInvalid, MediaTypeUnsupported, SizeInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import MAX_SIZE, Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Index, Manifest, parse_manifest
from tests.unit.oci.manifests import body, docker_list, docker_manifest, oci_index, oci_manifest

SEEDS = (oci_manifest(), docker_manifest(), oci_index(), docker_list())
NAMES = (
    *("schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "artifactType", "fsLayers"),
    *("digest", "size", "platform", "os", "architecture", "Layers", "\u017fize", "x"),
)
content_types = st.sampled_from([None, "", *media_types.ACCEPTED, "text/html"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(media_types.ACCEPTED)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mutated_documents(draw: st.DrawFn) -> Any:
    """Draw a document of a real tool with one to three changes."""
    document = json.loads(json.dumps(draw(st.sampled_from(SEEDS))))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while children := [child for child in values_of(place) if isinstance(child, dict | list) and child]:
            if draw(st.booleans()):
                break
            place = draw(st.sampled_from(children))
        mutate(draw, place)
    return document


def values_of(place: Any) -> list[Any]:
    return list(place.values()) if isinstance(place, dict) else list(place)


def mutate(draw: st.DrawFn, place: Any) -> None:
    if isinstance(place, list):
        position = draw(st.integers(0, len(place)))
        place[position : position + draw(st.integers(0, 1))] = [draw(json_values)]
        return
    name = draw(st.sampled_from([*place, *NAMES]))
    if draw(st.booleans()):
        place[name] = draw(json_values)
    else:
        place.pop(name, None)


def read(content: bytes, content_type: str | None) -> Manifest | Index | str:
    try:
        return parse_manifest(content, content_type, what="test")
    except (ManifestInvalid, MediaTypeUnsupported, SizeInvalid) as refused:
        return refused.message


def require_sound(parsed: Manifest | Index | str) -> None:
    """Check what the rest of the mirror relies on without checking it again."""
    if isinstance(parsed, str):
        assert 0 < len(parsed) < 2_000
        assert parsed.isprintable()
        return
    listed: tuple[Descriptor, ...]
    if isinstance(parsed, Index):
        assert parsed.media_type in media_types.INDEXES
        assert {*parsed.children, *parsed.blobs, *parsed.unknown_entries} == set(parsed.manifests)
        listed = parsed.manifests
    else:
        assert parsed.media_type in media_types.MANIFESTS
        listed = parsed.blobs
    for descriptor in (*listed, *((parsed.subject,) if parsed.subject else ())):
        assert Digest.parse(str(descriptor.digest)) == descriptor.digest
        assert 0 <= descriptor.size <= MAX_SIZE
        assert descriptor.media_type.isprintable()
        assert descriptor.media_type.isascii()


@given(mutated_documents(), content_types)
def test_a_damaged_document_is_parsed_or_is_refused_with_a_short_message(
    document: Any, content_type: str | None
) -> None:
    require_sound(read(body(document), content_type))


@given(json_values, content_types)
def test_any_json_is_parsed_or_is_refused_with_a_short_message(document: Any, content_type: str | None) -> None:
    require_sound(read(body(document), content_type))


@given(st.binary(max_size=200), content_types)
def test_any_bytes_are_refused_with_a_short_message(content: bytes, content_type: str | None) -> None:
    require_sound(read(content, content_type))


@given(st.sampled_from(SEEDS), st.integers(min_value=0), st.binary(max_size=3))
def test_a_document_with_changed_bytes_is_parsed_or_is_refused_with_a_short_message(
    document: dict[str, Any], place: int, change: bytes
) -> None:
    content = body(document)
    place %= len(content)
    require_sound(read(content[:place] + change + content[place + 1 :], None))


@given(mutated_documents())
def test_the_parsed_type_is_the_type_that_the_body_states(document: Any) -> None:
    parsed = read(body(document), None)
    if not isinstance(parsed, str) and document.get("mediaType"):
        assert parsed.media_type == document["mediaType"]
