from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import InvalidDigest
from mirror.oci.digest import Digest
from tests.unit.oci.generated import digests

HEX = "0123456789abcdef" * 4


def test_a_digest_is_an_algorithm_and_its_hexadecimal_digits() -> None:
    assert Digest.parse(f"sha256:{HEX}") == Digest("sha256", HEX)
    assert Digest.parse(f"sha512:{HEX * 2}") == Digest("sha512", HEX * 2)


@pytest.mark.parametrize(
    "text",
    [
        *("", "sha256", "sha256:", HEX, f":{HEX}", f"sha256:{HEX}0", f"sha256:{HEX[1:]}", f"sha512:{HEX}"),
        *(f"SHA256:{HEX}", f"sha256:{HEX.upper()}", f"sha384:{HEX}{HEX[:32]}", f"md5:{HEX[:32]}", f"sha256-{HEX}"),
        *(f"sha256:{'../' * 21}a", f"sha256:{HEX[:31]}/{HEX[:32]}", f"sha256: {HEX[1:]}", f"sha256:{HEX[1:]}\n"),
        *(f"sha256:sha256:{HEX[7:]}", f"sha256:{HEX[:63]}٣", f"sha256+b64:{HEX}"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


@given(digests)
def test_the_text_of_a_digest_parses_to_the_same_digest(digest: Digest) -> None:
    assert Digest.parse(str(digest)) == digest


@given(st.text(max_size=300))
def test_any_text_is_a_digest_or_is_refused_with_a_short_message(text: str) -> None:
    try:
        read, message = str(Digest.parse(text)), ""
    except InvalidDigest as refused:
        read, message = "", refused.message
    assert read == text or 0 < len(message) < 2_000


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_digest_of_content_is_its_hash(algorithm: str) -> None:
    assert Digest.of(b"hello", algorithm).hex == hashlib.new(algorithm, b"hello").hexdigest()
    assert Digest.parse(str(Digest.of(b"hello", algorithm))).algorithm == algorithm
