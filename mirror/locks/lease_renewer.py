"""Renew many leases from one thread, for work of unknown length."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self

import structlog

from mirror.background import BackgroundLoop, record_fault, suppress_faults
from mirror.errors import RedisUnavailable
from mirror.locks.lease import Lease, Leases

_RENEWALS: Final = 4
"""Renewals within the length of a lease: three may fail."""
_LOG = structlog.get_logger(__name__)


class LeaseRenewer:
    """A context that renews the leases taken in it and ends them on exit.

    Each lasts *seconds*.

    A lease that expired during an outage of Redis is taken again, unless another holder has it. Then it is lost, and
    its *lost* callback is called once, from the renewer's thread. A lease is also lost if its renewal fails for another
    reason than an outage. The other leases are still renewed.
    """

    def __init__(self, leases: Leases, seconds: float) -> None:
        self._leases = leases
        self._seconds = seconds
        self._held: dict[str, tuple[Lease, Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._loop = BackgroundLoop("lease-renewer", seconds / _RENEWALS, self._renew_all)

    def __enter__(self) -> Self:
        self._loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.end()
        for lease, _lost in list(self._held.values()):
            self.give_back(lease)

    def take(self, key: str, lost: Callable[[], None]) -> Lease | None:
        """Take the lease and renew it from now on.

        Return None while another holder has it.
        """
        lease = self._leases.take(key, self._seconds)
        if lease is not None:
            with self._lock:
                self._held[key] = (lease, lost)
        return lease

    def give_back(self, lease: Lease) -> None:
        """Stop renewing the lease and end it.

        If Redis is away, the lease expires by itself.
        """
        with self._lock:
            self._held.pop(lease.key, None)
        try:
            self._leases.end(lease)
        except RedisUnavailable:
            _LOG.warning("Redis is away, so a lease was not ended and will expire", lease=lease.key)
        except Exception as error:  # noqa: BLE001 - the work under it is done, and the next lease is given back too
            record_fault("giving back a lease", error, lease=lease.key)

    def _renew_all(self) -> bool:
        with self._lock:
            held = list(self._held.values())
        for lease, lost in held:
            if not self._is_kept(lease):
                with suppress_faults("reporting a lost lease", lease=lease.key):
                    lost()
        return True

    def _is_kept(self, lease: Lease) -> bool:
        """Renew the lease. Return False once it is lost."""
        try:
            return self._renew(lease)
        except RedisUnavailable:
            _LOG.warning("Redis is away, so a lease could not be renewed", lease=lease.key)
            return True
        except Exception as error:  # noqa: BLE001 - a lease that cannot be renewed is lost, and the others are not
            record_fault("renewing a lease", error, lease=lease.key)
            with self._lock:
                self._held.pop(lease.key, None)
            return False

    def _renew(self, lease: Lease) -> bool:
        """Renew the lease under the lock.

        So a lease that is being given back is not taken again.
        """
        with self._lock:
            if lease.key not in self._held:
                return True
            kept = self._leases.renew(lease) or self._leases.take_again(lease)
            if not kept:
                self._held.pop(lease.key)
            return kept
