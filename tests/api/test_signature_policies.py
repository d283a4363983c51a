"""Requests say who must have signed an image. What can never work is refused with its field."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.sigstore import IDENTITY, ISSUER
from tests.unit.signatures.made import KEY, pem
from tests.unit.signatures.test_policy import PRIVATE


def posted(api: FlaskClient, signature: object) -> tuple[int, dict[str, Any]]:
    answer = api.post("/v1/jobs", json={"source": "alpine:3.20", "signature": signature})
    return answer.status_code, answer.get_json()


@pytest.mark.parametrize("policy", [{"keys": [pem(KEY)]}, {"identity": IDENTITY, "issuer": ISSUER}])
def test_the_answer_repeats_the_policy(api: FlaskClient, policy: dict[str, Any]) -> None:
    status, job = posted(api, policy)
    assert (status, job["request"]["signature"]) == (202, policy)


@pytest.mark.parametrize(
    ("policy", "pointer"),
    [
        ({"keys": [PRIVATE]}, "/signature/keys"),
        ({}, "/signature/keys"),
        ({"identity": IDENTITY}, "/signature/issuer"),
        ({"identity_regex": "(", "issuer": ISSUER}, "/signature/identity_regex"),
        ({"pin": "x"}, "/signature/pin"),
        ([], "/signature"),
    ],
)
def test_a_wrong_policy_is_refused_at_its_field(api: FlaskClient, policy: object, pointer: str) -> None:
    status, refused = posted(api, policy)
    assert (status, [error["pointer"] for error in refused["errors"]]) == (422, [pointer])
    assert not any(line in str(refused) for line in PRIVATE.splitlines()[1:-1])


def test_an_unknown_trusted_root_is_refused(api: FlaskClient) -> None:
    status, refused = posted(api, {"identity": IDENTITY, "issuer": ISSUER, "trusted_root": "acme"})
    assert (status, refused["code"]) == (422, "TRUSTED_ROOT_UNAVAILABLE")
    assert "'acme'" in refused["detail"]
