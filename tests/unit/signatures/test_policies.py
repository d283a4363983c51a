"""The policies of the settings: which images they are for, and which of them are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.reference import Reference
from mirror.settings import InvalidSettings, Settings
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.policy import SignaturePolicy
from tests.support.sigstore import IDENTITY, ISSUER
from tests.unit.signatures.made import KEY, OTHER_KEY, pem

OURS = SignaturePolicy.parse(keys=[pem(KEY)])
THEIRS = SignaturePolicy.parse(keys=[pem(OTHER_KEY)])


def policies(*entries: object) -> SignaturePolicies:
    return SignaturePolicies.parse(json.dumps(entries))


def ours(*sources: str) -> dict[str, Any]:
    return {"sources": list(sources), "keys": [pem(KEY)]}


@pytest.mark.parametrize(
    ("source", "image", "applies"),
    [
        ("docker.io/acme/*", "acme/app:1", True),
        ("docker.io/acme/*", "acme/team/app", True),
        ("docker.io/acme/*", "acmes/app", False),
        ("docker.io/acme/*", "registry.test/acme/app", False),
        ("docker.io/library/redis", "redis:7", True),
        ("docker.io/library/redis", "index.docker.io/library/redis:7", True),
        ("docker.io/library/redis", "redislabs/redis", False),
        ("docker.io/*", "redis", True),
        ("registry.test:5000/*", "registry.test:5000/a/b", True),
        ("registry.test:5000/*", "registry.test/a/b", False),
        ("*.acme.test/prod-?/*", "eu.acme.test/prod-1/app", True),
        ("*", "anything.test/at/all", True),
    ],
)
def test_a_policy_is_for_the_sources_that_it_names(source: str, image: str, applies: bool) -> None:
    found = policies(ours(source)).of(Reference.parse(image))
    assert found == ((OURS,) if applies else ())


def test_all_policies_that_match_must_be_satisfied_and_a_job_takes_none_away() -> None:
    theirs = {"sources": ["docker.io/library/redis"], "keys": [pem(OTHER_KEY)]}
    found = policies(ours("docker.io/*"), theirs)
    redis, other = Reference.parse("redis"), Reference.parse("registry.test/app")
    assert found.of(redis) == (OURS, THEIRS)
    own = SignaturePolicy.parse(identity=IDENTITY, issuer=ISSUER)
    assert found.of(redis, own) == (OURS, THEIRS, own)
    assert found.of(redis, OURS) == (OURS, THEIRS)
    assert found.of(other, own) == (own,)
    assert found.of(other) == ()


def test_no_text_is_no_policy() -> None:
    assert not SignaturePolicies.parse("")
    assert SignaturePolicies.parse("[]") == SignaturePolicies()


@pytest.mark.parametrize(
    "source",
    [
        "acme/*",
        "redis",
        "docker.io/redis",
        "docker.io/redis*",
        "index.docker.io/acme/*",
        "Docker.io/acme/*",
        "docker.io/Acme/*",
        "docker.io/acme/app:1.0",
        f"docker.io/acme/app@sha256:{'0' * 64}",
        "docker.io/acme/",
        "https://registry.test/*",
        "registry.test:443/*",
        "registry.test/[ab]/*",
        "registry.test",
        "*/acme/app",
        "",
        " ",
    ],
)
def test_a_source_that_no_image_can_match_is_refused(source: str) -> None:
    """Otherwise the policy would never apply, without any error."""
    with pytest.raises(ValueError, match="source 2 of entry 1 that no image matches"):
        policies(ours("docker.io/acme/*", source))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "must be a JSON list"),
        ("{}", "must be a JSON list"),
        ("[1]", "entry 1 is no object"),
        ('[{"sources": ["*"], "sources": ["*"]}]', "each field once"),
        ("[" * 100_000, "must be a JSON list"),
        (json.dumps([ours("*")] * 101), "at most 100"),
        (json.dumps([ours()]), "needs a list of 1 to 100 'sources' in entry 1"),
        (json.dumps([ours(*["*"] * 101)]), "needs a list of 1 to 100 'sources' in entry 1"),
        (json.dumps([ours("*"), {"keys": [pem(KEY)]}]), "needs a list of 1 to 100 'sources' in entry 2"),
        (json.dumps([ours("*") | {"sources": "*"}]), "needs a list"),
        (json.dumps([ours("*") | {"key": "x"}]), "entry 1 is no object of 'sources' and keys, identity"),
        (json.dumps([ours("*") | {"keys": "x"}]), "'keys' that are not a list of texts"),
        (json.dumps([ours("*") | {"keys": [1]}]), "'keys' that are not a list of texts"),
        (json.dumps([{"sources": ["*"], "identity": 1, "issuer": "x"}]), "a field that is not a text"),
        (json.dumps([{"sources": ["*"]}]), "has a wrong 'keys' in entry 1: Name 'keys'"),
        (json.dumps([{"sources": ["*"], "identity": "x"}]), "has a wrong 'issuer' in entry 1"),
    ],
)
def test_a_wrong_text_is_refused_with_the_entry(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        SignaturePolicies.parse(text)
    assert len(str(refused.value)) < 400


def test_the_settings_have_the_policies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "policies.json"
    file.write_text(json.dumps([ours("docker.io/acme/*")]))
    monkeypatch.setenv("MIRROR_SIGNATURE_POLICIES_FILE", str(file))
    assert Settings.load().signature_policies.of(Reference.parse("acme/app")) == (OURS,)


def test_a_policy_without_its_trusted_root_stops_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {"sources": ["*"], "identity": IDENTITY, "issuer": ISSUER, "trusted_root": "acme"}
    monkeypatch.setenv("MIRROR_SIGNATURE_POLICIES", json.dumps([asked]))
    for folder, problem in [("", "MIRROR_TRUSTED_ROOTS names no folder"), (str(tmp_path), "there is no such file")]:
        monkeypatch.setenv("MIRROR_TRUSTED_ROOTS", folder)
        with pytest.raises(InvalidSettings) as refused:
            Settings.load()
        assert refused.value.problems == {"MIRROR_SIGNATURE_POLICIES": [f"needs the trusted root 'acme': {problem}"]}
    (tmp_path / "acme.json").write_bytes(b"{}")
    assert Settings.load().trusted_roots == tmp_path
