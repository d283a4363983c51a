"""The settings: environment variables, each also readable from a file.

`declarations` has one entry per setting: its default, its parser and its text on the reference page. `parsers` has the
parsers. `environment` reads the variables and collects everything that is wrong with them.
"""

from __future__ import annotations

from mirror.settings.declarations import Settings
from mirror.settings.environment import InvalidSettings
from mirror.settings.parsers import ListingApi, Network, is_loopback, token_problem

__all__ = ["InvalidSettings", "ListingApi", "Network", "Settings", "is_loopback", "token_problem"]
