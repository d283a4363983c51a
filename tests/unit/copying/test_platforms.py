"""Which parts of an image the rules for platforms choose, read with the real resolver from a registry in memory."""

from __future__ import annotations

import json

import pytest

from mirror.copying.platform_reader import MAX_CONFIGS
from mirror.errors import ManifestInvalid, PlatformUnknown
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.platform import Platform
from mirror.records.rules import PlatformMode, PlatformRules
from tests.support import images
from tests.support.images import TestImage
from tests.unit.copying.registry_in_memory import (
    AMD64,
    APP,
    ARM,
    ARM64,
    CHART,
    FLAT,
    UNNAMED,
    MemoryRegistry,
    child,
    digest_of,
    digests,
    index_entry,
    only,
    resolution,
    resolve,
)


def test_without_rules_everything_is_read_and_no_config() -> None:
    image, registry = resolve(UNNAMED, PlatformRules())
    assert digests(image) == [AMD64.digest, ARM64.digest, ARM.digest, UNNAMED.digest]
    assert (image.left_out, registry.configs) == ((), [])


def test_sparse_keeps_the_index_and_never_asks_for_another_platform() -> None:
    image, registry = resolve(FLAT, only("linux/arm64/v8", "linux/arm"))
    assert digests(image) == [ARM64.digest, ARM.digest, FLAT.digest]
    assert image.root.body == FLAT.body
    assert registry.manifests == [FLAT.digest, ARM64.digest, ARM.digest]
    [left_out] = image.left_out
    assert left_out.descriptor.digest == AMD64.digest
    assert left_out.reason == "the platforms mode 'sparse' leaves out linux/amd64"
    assert left_out.code is None
    assert image.platforms == (Platform("linux", "arm", "v7"), Platform("linux", "arm64"))


def test_an_attestation_follows_its_platform() -> None:
    attested = images.with_attestation(FLAT, AMD64, seed="of amd64")
    attested = images.with_attestation(attested, ARM64, seed="of arm64")
    image, registry = resolve(attested, only("linux/amd64"))
    assert digests(image) == [AMD64.digest, child(attested, 3).digest, attested.digest]
    assert child(attested, 4).digest not in registry.manifests
    reasons = {one.descriptor.digest: one.reason for one in image.left_out}
    assert reasons[child(attested, 4).digest] == "it attests a manifest that the platforms mode 'sparse' leaves out"


def test_the_platform_of_an_entry_without_one_is_that_of_its_config() -> None:
    attested = images.with_attestation(images.with_attestation(UNNAMED, ARM64, seed="1"), AMD64, seed="2")
    image, registry = resolve(attested, only("linux/arm64"))
    assert digests(image) == [ARM64.digest, child(attested, 3).digest, attested.digest]
    assert set(registry.manifests) == {attested.digest, AMD64.digest, ARM64.digest, child(attested, 3).digest}
    assert len(registry.configs) == 2
    assert image.platforms == (Platform("linux", "arm64"),)


def test_the_configs_that_are_read_are_bounded() -> None:
    parts = [images.image(images.layer(f"{n}"), platform="linux/amd64") for n in range(MAX_CONFIGS + 1)]
    with pytest.raises(ManifestInvalid, match=f"more than {MAX_CONFIGS} manifests without a platform"):
        resolve(images.index(*((None, part) for part in parts)), only("linux/amd64"))


NESTED = images.index(
    (None, images.index(("linux/amd64", AMD64), ("linux/arm64", ARM64))), (None, images.index(("linux/arm/v7", ARM)))
)


def test_nested_indexes_are_looked_into_and_left_out_if_nothing_is_chosen_in_them() -> None:
    image, _ = resolve(NESTED, only("linux/arm64"))
    assert digests(image) == [ARM64.digest, child(NESTED, 0).digest, NESTED.digest]
    assert {one.descriptor.digest for one in image.left_out} == {AMD64.digest, ARM.digest, child(NESTED, 1).digest}


def test_a_nested_index_of_another_platform_is_not_read() -> None:
    inner = images.index(("linux/amd64", AMD64))
    image, registry = resolve(images.index(("linux/amd64", inner), ("linux/arm64", ARM64)), only("linux/arm64"))
    assert inner.digest not in registry.manifests
    assert digests(image)[0] == ARM64.digest


def test_what_has_no_platform_is_for_every_platform() -> None:
    mixed = images.index(("linux/amd64", AMD64), (None, CHART), ("linux/arm64", ARM64))
    image, _ = resolve(mixed, only("linux/amd64"))
    assert digests(image) == [AMD64.digest, CHART.digest, mixed.digest]


@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_no_match_is_an_error_that_lists_what_the_image_has(mode: PlatformMode) -> None:
    for image in (FLAT, UNNAMED, NESTED):
        with pytest.raises(PlatformUnknown) as refused:
            resolve(image, only("linux/s390x", mode=mode))
        assert "has none of linux/s390x. It has linux/amd64, linux/arm/v7, linux/arm64" in refused.value.message


@pytest.mark.parametrize("image", [images.index(), images.index((None, CHART))], ids=["empty", "artifacts only"])
@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_an_index_without_platforms_matches_nothing(image: TestImage, mode: PlatformMode) -> None:
    with pytest.raises(PlatformUnknown, match="It has no platform at all"):
        resolve(image, only("linux/amd64", mode=mode))


@pytest.mark.parametrize("image", [FLAT, UNNAMED, NESTED], ids=["flat", "unnamed", "nested"])
def test_all_copies_everything_if_one_platform_is_there(image: TestImage) -> None:
    found, _ = resolve(image, only("linux/amd64", "linux/s390x", mode="all"))
    assert set(digests(found)) == {one.digest for one in image.all_manifests()}
    assert found.left_out == ()


def test_rewrite_keeps_fields_and_order_and_is_deterministic() -> None:
    document = json.loads(images.with_attestation(FLAT, ARM64).body)
    document = {"annotations": {"é": "1"}, **document, "x-own": [1, {"b": None}]}
    document["manifests"][1]["annotations"] = {"of": "arm64"}
    source = TestImage(
        json.dumps(document).encode(), FLAT.media_type, {}, images.with_attestation(FLAT, ARM64).children
    )
    image, registry = resolve(source, only("linux/arm64", mode="rewrite"))
    made = json.loads(image.root.body)
    assert list(made) == list(document)
    assert made == document | {"manifests": [document["manifests"][1], document["manifests"][3]]}
    assert image.digest == Digest.of(image.root.body) != source.digest
    assert resolve(source, only("linux/arm64/v8", mode="rewrite"))[0].root.body == image.root.body
    assert AMD64.digest not in registry.manifests


def test_a_rewrite_that_drops_nothing_changes_no_byte() -> None:
    image, _ = resolve(FLAT, only("linux/amd64", "linux/arm64", "linux/arm", mode="rewrite"))
    assert image.root.body == FLAT.body


def test_nested_indexes_are_rewritten_from_the_bottom_up() -> None:
    image, _ = resolve(NESTED, only("linux/arm64", mode="rewrite"))
    inner, root = image.manifests[1:]
    assert [entry["digest"] for entry in json.loads(inner.body)["manifests"]] == [str(ARM64.digest)]
    [entry] = json.loads(root.body)["manifests"]
    assert (entry["digest"], entry["size"]) == (str(Digest.of(inner.body)), len(inner.body))


def test_a_rewritten_docker_list_stays_one() -> None:
    listed = images.index(("linux/amd64", AMD64), ("linux/arm64", ARM64), docker=True)
    image, _ = resolve(listed, only("linux/amd64", mode="rewrite"))
    assert image.root.parsed.media_type == json.loads(image.root.body)["mediaType"] == media_types.DOCKER_LIST


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_that_cannot_be_written_again_is_refused(number: str) -> None:
    body = FLAT.body.replace(b'"schemaVersion"', f'"x": {number}, "schemaVersion"'.encode(), 1)
    source = TestImage(body, FLAT.media_type, {}, FLAT.children)
    assert digests(resolve(source, only("linux/amd64"))[0])[-1] == source.digest
    with pytest.raises(ManifestInvalid, match="cannot be rewritten"):
        resolve(source, only("linux/amd64", mode="rewrite"))


def test_single_shows_the_manifest_and_reads_no_other() -> None:
    attested = images.with_attestation(FLAT, ARM64)
    image, registry = resolve(attested, only("linux/arm64", mode="single"))
    assert digests(image) == [ARM64.digest]
    assert registry.manifests == [attested.digest, ARM64.digest]
    reasons = {one.descriptor.digest: one.reason for one in image.left_out}
    assert reasons.keys() == {AMD64.digest, ARM.digest, child(attested, 3).digest}
    assert "'single' keeps none" in reasons[child(attested, 3).digest]


@pytest.mark.parametrize("named", [True, False])
def test_single_takes_the_best_of_several_variants(named: bool) -> None:
    variants = {
        name: images.image(images.layer(name), platform=name)
        for name in ("linux/arm/v6", "linux/arm/v8", "linux/arm/v7")
    }
    flat = images.index(*((name if named else None, image) for name, image in variants.items()))
    apart = images.index(*((None, images.index((name, image))) for name, image in variants.items()))
    for source in (flat, apart):
        image, _ = resolve(source, only("linux/arm", mode="single"))
        assert digests(image) == [variants["linux/arm/v7"].digest]


def test_a_manifest_listed_for_two_platforms_is_held_if_one_is_chosen() -> None:
    twice = images.index(("linux/arm/v6", ARM), ("linux/arm/v7", ARM), ("linux/amd64", AMD64))
    image, registry = resolve(twice, only("linux/arm/v7"))
    assert digests(image) == [ARM.digest, twice.digest]
    assert registry.manifests == [twice.digest, ARM.digest]
    assert {one.descriptor.digest for one in image.left_out} == {AMD64.digest}


@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_a_single_image_that_matches_is_copied_as_it_is(mode: PlatformMode) -> None:
    image, registry = resolve(ARM64, only("linux/arm64/v8", mode=mode))
    assert (digests(image), image.left_out, len(registry.configs)) == ([ARM64.digest], (), 1)


@pytest.mark.parametrize("mode", ["all", "sparse", "rewrite", "single"])
def test_a_single_image_of_another_platform_is_skipped_and_says_why(mode: PlatformMode) -> None:
    with resolution(MemoryRegistry(ARM64)) as found:
        assert found.skip_reason(only("linux/amd64", "windows/amd64", mode=mode)) == (
            f"'{APP}' has no index, and it is for linux/arm64 only. Wanted: linux/amd64, windows/amd64"
        )


def test_an_artifact_is_never_skipped() -> None:
    image, _ = resolve(CHART, only("linux/amd64"))
    assert digests(image) == [CHART.digest]


def test_a_single_image_whose_config_names_no_platform_is_skipped() -> None:
    config = b'{"rootfs": {}}'
    descriptor = {"mediaType": images.OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)}
    body = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": []}).encode()
    source = TestImage(body, media_types.OCI_MANIFEST, {Digest.of(config): config})
    with resolution(MemoryRegistry(source)) as found:
        assert "its config names no platform" in (found.skip_reason(only("linux/amd64")) or "")


def test_a_blob_that_an_index_lists_is_for_every_platform() -> None:
    blob = {
        "mediaType": images.OCI_LAYER,
        "digest": digest_of(1),
        "size": 1,
        "platform": {"os": "plan9", "architecture": "mips"},
    }
    document = json.loads(FLAT.body)
    document["manifests"].append(blob)
    source = TestImage(json.dumps(document).encode(), FLAT.media_type, {}, FLAT.children)
    image, _ = resolve(source, only("linux/amd64", mode="rewrite"))
    assert [str(one.digest) for one in image.root.parsed.blobs] == [digest_of(1)]


def test_an_attestation_of_no_manifest_is_left_out() -> None:
    nothing = {"mediaType": "", "digest": digest_of(1), "size": 1}
    document = json.loads(FLAT.body)
    document["manifests"] += [
        {name: value for name, value in nothing.items() if value},
        index_entry(2, None, digest_of(1)),
    ]
    source = TestImage(json.dumps(document).encode(), FLAT.media_type, {}, FLAT.children)
    image, _ = resolve(source, only("linux/amd64"))
    reasons = {str(one.descriptor.digest): one.reason for one in image.left_out}
    assert reasons[digest_of(2)] == "it attests something that is no manifest"
    assert [str(one.digest) for one in image.optional_blobs] == [digest_of(1)]


def test_an_entry_that_cannot_be_mirrored_is_not_the_best_of_several() -> None:
    old = {"mediaType": media_types.DOCKER_SCHEMA_1, "digest": digest_of(1), "size": 1}
    document = json.loads(images.index(("linux/amd64/v2", AMD64)).body)
    document["manifests"].insert(0, old | {"platform": {"os": "linux", "architecture": "amd64"}})
    source = TestImage(json.dumps(document).encode(), FLAT.media_type, {}, FLAT.children)
    image, _ = resolve(source, only("linux/amd64", mode="single"))
    assert digests(image) == [AMD64.digest]
