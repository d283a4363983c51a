"""The least cost of any copy: SHA-256 of every byte, and receiving and sending.

It is measured in the same run.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

from bench.servers import CAP

_GB: Final = 1_000_000_000
_BUFFER: Final = 1024 * 1024
_AMOUNT: Final = 1024 * _BUFFER


@dataclass(frozen=True, slots=True)
class Floor:
    """What this machine can do at best.

    *hash_rate* is in bytes per second on one core, *relay* (receive and send) in CPU seconds per GB. *rate* is that of
    a paced connection in bytes per second.
    """

    hash_rate: float
    relay: float
    cores: int
    rate: int = CAP

    @property
    def cpu_per_gb(self) -> float:
        return _GB / self.hash_rate + self.relay

    def limit(self, *, total: int, largest: int, connections: int | None) -> float:
        """Return the least possible seconds for a copy of *total* bytes.

        *connections* is the number of paced connections to the source, or None without pacing.

        There are three limits: the bandwidth of the connections, the hash of the *largest* blob (SHA-256 cannot be
        computed in parallel), and the CPU time of all cores together.
        """
        paced = total / (connections * self.rate) if connections else 0.0
        return max(paced, largest / self.hash_rate, self.cpu_per_gb * total / _GB / self.cores)


def measure(rate: int) -> Floor:
    return Floor(_hash_rate(), _relay_cost(), os.cpu_count() or 1, rate)


def _hash_rate() -> float:
    hasher, buffer = hashlib.sha256(), os.urandom(_BUFFER)
    start = time.thread_time()
    for _ in range(_AMOUNT // _BUFFER):
        hasher.update(buffer)
    return _AMOUNT / (time.thread_time() - start)


def _relay_cost() -> float:
    """Return the CPU seconds per GB for passing bytes between two connections.

    Only this thread counts, not the far ends.
    """
    (source, incoming), (outgoing, sink) = _connected(), _connected()
    peers = [threading.Thread(target=_send, args=(source,)), threading.Thread(target=_receive, args=(sink,))]
    for thread in peers:
        thread.start()
    buffer = memoryview(bytearray(_BUFFER))
    start = time.thread_time()
    while received := incoming.recv_into(buffer):
        outgoing.sendall(buffer[:received])
    cost = time.thread_time() - start
    outgoing.close()
    for thread in peers:
        thread.join()
    incoming.close()
    return cost / (_AMOUNT / _GB)


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def _send(connection: socket.socket) -> None:
    buffer = bytes(_BUFFER)
    with connection:
        for _ in range(_AMOUNT // _BUFFER):
            connection.sendall(buffer)


def _receive(connection: socket.socket) -> None:
    buffer = bytearray(_BUFFER)
    with connection:
        while connection.recv_into(buffer):
            pass
