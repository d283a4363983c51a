"""Which parts of any index the rules for platforms choose."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.copying.platforms import choose
from mirror.errors import PlatformUnknown
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.manifest import Index, parse_manifest
from mirror.oci.platform import Platform, PlatformPattern
from mirror.records.rules import PlatformRules
from tests.support import images
from tests.support.images import TestImage
from tests.unit.copying.registry_in_memory import digest_of, index_entry, resolve

OSES, ARCHITECTURES, VARIANTS = ("linux", "windows"), ("amd64", "arm", "arm64"), ("", "v6", "v7", "v8")
PLATFORMS = st.builds(Platform, st.sampled_from(OSES), st.sampled_from(ARCHITECTURES), st.sampled_from(VARIANTS))
PATTERNS = st.builds(PlatformPattern, st.sampled_from(OSES), st.sampled_from(ARCHITECTURES), st.sampled_from(VARIANTS))


@given(st.lists(st.none() | PLATFORMS, max_size=8), st.sets(PATTERNS, min_size=1, max_size=3), st.data())
def test_every_entry_has_one_verdict_and_the_naive_one(
    platforms: Sequence[Platform | None], patterns: set[PlatformPattern], data: st.DataObject
) -> None:
    learned = {
        Digest.of(str(number).encode()): data.draw(st.none() | PLATFORMS)
        for number, platform in enumerate(platforms)
        if platform is None
    }
    attested = data.draw(st.lists(st.sampled_from(range(len(platforms))), max_size=3)) if platforms else []
    entries = [index_entry(number, platform) for number, platform in enumerate(platforms)]
    entries += [index_entry(100 + number, None, digest_of(of)) for number, of in enumerate(attested)]
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    index = parse_manifest(body, None, what="generated")
    assert isinstance(index, Index)
    rules = PlatformRules(tuple(patterns), "sparse")
    effective = [platform or learned[Digest.of(str(number).encode())] for number, platform in enumerate(platforms)]
    naive = [platform is None or any(one.matches(platform) for one in patterns) for platform in effective]
    expected = naive + [naive[of] for of in attested]

    choice = choose(index, rules, learned)
    assert [entry in choice.chosen for entry in index.manifests] == expected
    left_out = {one.descriptor for one in choice.left_out}
    assert left_out.isdisjoint(choice.chosen)
    assert left_out | set(choice.chosen) == set(index.manifests)
    assert choice.undecided == ()
    unlearned = choose(index, rules, {})
    assert set(unlearned.chosen) <= set(choice.chosen)
    assert {one.descriptor for one in unlearned.left_out} <= left_out


@given(st.lists(PLATFORMS, min_size=1, max_size=6, unique=True), st.sets(PATTERNS, min_size=1, max_size=3))
def test_a_rewritten_index_lists_the_chosen_in_order_and_is_a_fixed_point(
    platforms: Sequence[Platform], patterns: set[PlatformPattern]
) -> None:
    source = images.index(*((str(one), _image(one)) for one in platforms))
    rules = PlatformRules(tuple(patterns), "rewrite")
    wanted = [str(_image(one).digest) for one in platforms if any(pattern.matches(one) for pattern in patterns)]
    if not wanted:
        with pytest.raises(PlatformUnknown):
            resolve(source, rules)
        return
    image, _ = resolve(source, rules)
    assert [entry["digest"] for entry in json.loads(image.root.body)["manifests"]] == wanted
    assert (image.root.body == source.body) == (len(wanted) == len(platforms))
    again = TestImage(image.root.body, source.media_type, {}, source.children)
    assert resolve(again, rules)[0].root.body == image.root.body


def _image(platform: Platform) -> TestImage:
    return images.image(images.layer(str(platform), 10), platform=str(platform))
