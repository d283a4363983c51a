"""How a source is parsed: like ``docker pull`` (distribution/reference), and where the mirror is stricter."""

from __future__ import annotations

import pytest

from mirror.errors import InvalidDigest, InvalidReference, InvalidTag
from mirror.oci.reference import Reference

SHA256 = "sha256:" + "f" * 64
SHA512 = "sha512:" + "f" * 128
HEX = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("lowercase:Uppercase", "docker.io/library/lowercase:Uppercase"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("library/redis", "docker.io/library/redis:latest"),
        ("library/foo/bar", "docker.io/library/foo/bar:latest"),
        ("a/b/c/d:1", "docker.io/a/b/c/d:1"),
        ("docker.io/redis", "docker.io/library/redis:latest"),
        ("docker.io/library/redis", "docker.io/library/redis:latest"),
        (f"docker.io/{HEX}", f"docker.io/library/{HEX}:latest"),
        (HEX[:-1], f"docker.io/library/{HEX[:-1]}:latest"),
        ("docker---rules/docker", "docker.io/docker---rules/docker:latest"),
        ("dock__er/docker", "docker.io/dock__er/docker:latest"),
        ("ubuntu-12.04-base", "docker.io/library/ubuntu-12.04-base:latest"),
        ("d/t", "docker.io/d/t:latest"),
    ],
)
def test_a_name_without_a_registry_is_on_docker_hub(text: str, canonical: str) -> None:
    assert str(Reference.parse(text)) == canonical


@pytest.mark.parametrize(
    "host",
    [
        "index.docker.io",
        "registry-1.docker.io",
        "registry.hub.docker.com",
        "Registry.Hub.Docker.com:443",
        "docker.io",
        "docker.io:443",
        "Docker.IO.",
    ],
)
def test_docker_hub_has_one_name(host: str) -> None:
    assert str(Reference.parse(f"{host}/redis")) == "docker.io/library/redis:latest"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("test.com/repo:tag", "test.com", "repo", "tag"),
        ("test:5000/repo", "test:5000", "repo", "latest"),
        ("localhost/repo", "localhost", "repo", "latest"),
        ("localhost:8080/repo", "localhost:8080", "repo", "latest"),
        ("gcr.io/project/image:1.0", "gcr.io", "project/image", "1.0"),
        (
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "b.gcr.io",
            "test.example.com/my-app",
            "test.example.com",
        ),
        ("192.168.1.1/repo", "192.168.1.1", "repo", "latest"),
        ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", "5050"),
        ("127.0.0.1:5001/team/app", "127.0.0.1:5001", "team/app", "latest"),
        ("xn--n3h.com:18080/myimage:xn--n3h.com", "xn--n3h.com:18080", "myimage", "xn--n3h.com"),
        ("sub-dom1.foo.com/bar/baz/quux", "sub-dom1.foo.com", "bar/baz/quux", "latest"),
        ("registry.io/foo/a--b.c--d.e---f", "registry.io", "foo/a--b.c--d.e---f", "latest"),
        ("example.com/some_separator__underscore/x", "example.com", "some_separator__underscore/x", "latest"),
        ("example.com/scratch", "example.com", "scratch", "latest"),
    ],
)
def test_a_first_component_with_a_dot_a_colon_or_localhost_is_a_registry(
    text: str, registry: str, repository: str, tag: str
) -> None:
    assert Reference.parse(text) == Reference(registry, repository, tag)


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    [
        ("test_com", "library/test_com", "latest"),
        ("test_com/foo", "test_com/foo", "latest"),
        ("test.com:5000", "library/test.com", "5000"),
        ("foo_bar.com:8080", "library/foo_bar.com", "8080"),
        ("foo/foo_bar.com:8080", "foo/foo_bar.com", "8080"),
        ("192.168.1.1", "library/192.168.1.1", "latest"),
        ("localhost:8080", "library/localhost", "8080"),
        ("dbcc1", "library/dbcc1", "latest"),
    ],
)
def test_any_other_first_component_is_part_of_the_repository(text: str, repository: str, tag: str) -> None:
    assert Reference.parse(text) == Reference("docker.io", repository, tag)


@pytest.mark.parametrize("digest", [SHA256, SHA512])
def test_with_a_tag_and_a_digest_the_digest_decides(digest: str) -> None:
    both = Reference.parse(f"test:5000/repo:tag@{digest}")
    assert (both.tag, str(both.digest), both.target) == ("tag", digest, digest)
    assert str(both) == f"test:5000/repo:tag@{digest}"


def test_a_reference_with_only_a_digest_gets_no_tag() -> None:
    by_digest = Reference.parse(f"localhost:8080/name@{SHA256}")
    assert (by_digest.tag, by_digest.target) == (None, SHA256)


def test_a_tag_is_the_target_when_there_is_no_digest() -> None:
    assert Reference.parse("redis:7").target == "7"
    assert Reference.parse("redis:7").name == "docker.io/library/redis"


@pytest.mark.parametrize(
    ("text", "registry"),
    [
        ("GHCR.io/org/app", "ghcr.io"),
        ("LOCALHOST/app", "localhost"),
        ("LOCALHOST:5000/app", "localhost:5000"),
        ("example.com./app", "example.com"),
        ("example.com.:5000/app", "example.com:5000"),
        ("example.com:443/app", "example.com"),
        ("localhost:443/app", "localhost"),
        ("harbor:443/app", "harbor:443"),
        ("example.com:80/app", "example.com:80"),
        ("docker.io:5000/app", "docker.io:5000"),
    ],
)
def test_all_spellings_of_a_registry_become_one(text: str, registry: str) -> None:
    """A host of one label keeps port 443. Without it, the name would be one on Docker Hub."""
    assert Reference.parse(text).registry == registry


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("https://github.com/docker/docker", "URL scheme"),
        ("docker://redis", "URL scheme"),
        (" redis", "blanks"),
        ("redis\n", "blanks or control characters"),
        ("re\x00dis", "control characters"),
        ("rédis", "outside ASCII"),
        ("☃.com/redis", "xn--"),
        ("\u212a8s.io/pause", "outside ASCII"),  # the Kelvin sign, whose lower case is an ASCII k
        ("[::1]:5000/repo", "IPv6"),
        ("[2001:db8::1]/repo:tag", "IPv6"),
        ("[fe80::1%eth0]:5000/repo", "IPv6"),
        (HEX, "image id"),
        ("scratch", "reserved"),
        ("docker.io/library/scratch:latest", "reserved"),
        (":justtag", "repository is missing"),
        ("@" + SHA256, "repository is missing"),
        ("docker.io/", "repository is missing"),
        ("host:5000/", "repository is missing"),
        ("/redis", "empty component"),
        ("docker/", "empty component"),
        ("docker///docker", "empty component"),
        ("Redis", "lower case"),
        ("docker/Docker", "lower case"),
        ("Docker/docker", "a registry's host needs a dot or a port"),
        ("test:5000/Uppercase/lowercase:tag", "lower case"),
        ("docker./docker", "a registry's host needs a dot or a port"),
        ("-docker.io/docker/docker", "host is malformed"),
        ("bad_hostname.com:8080/myapp:tag", "host is malformed"),
        ("foo_bar.com/redis", "host is malformed"),
        (".docker/docker", "host is malformed"),
        ("do..cker/docker", "host is malformed"),
        ("fc00::1:5000/debian", "port is not a number"),
        ("foo.com:http/bar", "port is not a number"),
        ("foo.com:/bar", "port is not a number"),
        ("foo.com:0/bar", "port is not a number"),
        ("foo.com:0443/bar", "port is not a number"),
        ("foo.com:65536/bar", "port is not a number"),
        ("-docker", "components of a repository"),
        ("docker-/docker", "components of a repository"),
        ("redis:a:b", "components of a repository"),
        ("_docker/_docker", "components of a repository"),
        ("____/____", "components of a repository"),
        ("dock_.er", "components of a repository"),
        ("a___b", "components of a repository"),
        ("aa/asdf$$^/aa", "components of a repository"),
        ("example.com/..dots/myimage", "components of a repository"),
        ("x.com/" + "a" * 250, "more than 255 characters"),
        ("x.com/" + "a" * 256, "more than 255 characters"),
        ("a" * 1025, "more than 1024 characters"),
    ],
)
def test_a_refused_name_says_what_is_wrong_with_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference) as refused:
        Reference.parse(text)
    assert reason in refused.value.reason


def test_host_and_repository_may_have_255_characters_together() -> None:
    assert Reference.parse("x.com/" + "a" * 249).repository == "a" * 249


@pytest.mark.parametrize("tag", ["", ".7", "-7", "a" * 129, "invalid~tag"])
def test_an_invalid_tag_is_reported_as_such(tag: str) -> None:
    with pytest.raises(InvalidTag):
        Reference.parse(f"registry.com:8080/myapp:{tag}")


@pytest.mark.parametrize(
    "digest",
    ["", "bad", "sha256:", "sha256:badbadbadbad", f"md5:{'f' * 32}", f"{SHA256}@{SHA256}", SHA256.upper(), HEX],
)
def test_an_invalid_digest_is_reported_as_such(digest: str) -> None:
    with pytest.raises(InvalidDigest):
        Reference.parse(f"redis@{digest}")
