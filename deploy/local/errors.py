"""Why the product does not start: one sentence for the person who typed `make run`."""

from __future__ import annotations


class CannotStart(Exception):
    """Nothing was started; the message says why and what to do about it."""
