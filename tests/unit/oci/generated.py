"""Strategies of hypothesis for valid names, and for texts that are nearly names."""

from __future__ import annotations

from hypothesis import strategies as st

from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.oci.reference import DOCKER_HUB, Reference

_LABEL = r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?"
_COMPONENT = r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}"

dotted_hosts = st.from_regex(rf"{_LABEL}(\.{_LABEL}){{1,2}}", fullmatch=True)
ports = st.integers(min_value=1, max_value=65535)
components = st.from_regex(_COMPONENT, fullmatch=True)
repositories = st.lists(components, min_size=1, max_size=4).map("/".join)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)
digests = st.sampled_from(sorted(HEX_LENGTH)).flatmap(
    lambda algorithm: st.text("0123456789abcdef", min_size=HEX_LENGTH[algorithm], max_size=HEX_LENGTH[algorithm]).map(
        lambda digits: Digest(algorithm, digits)
    )
)


@st.composite
def registries(draw: st.DrawFn) -> str:
    """Draw a registry as `Reference` has it: lower case, with a dot or a port, or ``localhost``."""
    host = draw(st.one_of(st.just(DOCKER_HUB), st.just("localhost"), dotted_hosts))
    port = draw(st.none() | ports.filter(lambda number: number != 443))
    single_label = draw(st.from_regex(_LABEL, fullmatch=True))
    return draw(st.sampled_from([host if port is None else f"{host}:{port}", f"{single_label}:{port or 443}"]))


@st.composite
def references(draw: st.DrawFn) -> Reference:
    """Draw a normalised reference. On Docker Hub a repository has at least two components."""
    registry = draw(registries().filter(lambda name: not name.startswith(("localhost:443", "index.docker.io"))))
    repository = draw(repositories)
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    tag, digest = draw(st.none() | tags), draw(st.none() | digests)
    return Reference(registry, repository, tag if tag or digest else "latest", digest)


nearly_names = st.lists(
    st.sampled_from(
        [
            *(
                "redis",
                "library",
                "docker.io",
                "INDEX.docker.io",
                "localhost",
                "host:5000",
                "x.com.",
                "[::1]",
                "scratch",
            ),
            *("/", ":", "@", ".", "-", "_", "://", "..", " ", "\x00", "é", "\u212a", "\ud800", "A", "0", "65536"),
            *("sha256:", "a" * 64, "f" * 128, "a/" * 130),
        ]
    ),
    max_size=8,
).map("".join) | st.text(max_size=40)
