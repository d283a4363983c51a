"""Lists of referrers, in a real bucket."""

from __future__ import annotations

from tests.support.harness import Harness
from tests.support.referrer_set import ReferrerSet


def test_referrers_are_listed_in_their_order_each_once(harness: Harness) -> None:
    signed = ReferrerSet.of(harness.core, 3)
    assert (signed.listed(), signed.add(1, 0, 1), signed.listed()) == ([], 2, [1, 0])
    before = harness.stored()
    assert (signed.add(0, 1), harness.stored()) == (0, before)
    assert (signed.add(0, 2, 1), signed.listed()) == (1, [1, 0, 2])
