"""What no copy can do without, measured in the same run: SHA-256 of every byte, and a bare receive and send."""

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
    """``hash_rate`` in bytes per second on one core; ``relay`` in CPU seconds per GB; ``cores`` of this machine;
    ``rate`` of a paced connection, in bytes per second.
    """

    hash_rate: float
    relay: float
    cores: int
    rate: int = CAP

    @property
    def cpu_per_gb(self) -> float:
        return _GB / self.hash_rate + self.relay

    def limit(self, *, total: int, largest: int, connections: int | None) -> float:
        """Seconds below which no copy of *total* bytes can be; *connections* to the source where they are paced.

        The three that bind: the bandwidth of the connections, the hash of the largest blob (one after the other,
        SHA-256 cannot be divided), and the CPU of all cores together.
        """
        paced = total / (connections * self.rate) if connections else 0.0
        return max(paced, largest / self.hash_rate, self.cpu_per_gb * total / _GB / self.cores)


def measure(rate: int) -> Floor:
    return Floor(_hash_rate(), _relay_cost(), os.cpu_count() or 1, rate)


def _hash_rate() -> float:
    hasher, buffer = hashlib.sha256(), os.urandom(_BUFFER)
    begun = time.thread_time()
    for _ in range(_AMOUNT // _BUFFER):
        hasher.update(buffer)
    return _AMOUNT / (time.thread_time() - begun)


def _relay_cost() -> float:
    """This thread's CPU for taking bytes from one connection and giving them to another; the far ends do not count."""
    (source, ours_in), (ours_out, sink) = _connected(), _connected()
    far_ends = [threading.Thread(target=_give, args=(source,)), threading.Thread(target=_take, args=(sink,))]
    for thread in far_ends:
        thread.start()
    buffer = memoryview(bytearray(_BUFFER))
    begun = time.thread_time()
    while received := ours_in.recv_into(buffer):
        ours_out.sendall(buffer[:received])
    cost = time.thread_time() - begun
    ours_out.close()
    for thread in far_ends:
        thread.join()
    ours_in.close()
    return cost / (_AMOUNT / _GB)


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def _give(connection: socket.socket) -> None:
    buffer = bytes(_BUFFER)
    with connection:
        for _ in range(_AMOUNT // _BUFFER):
            connection.sendall(buffer)


def _take(connection: socket.socket) -> None:
    buffer = bytearray(_BUFFER)
    with connection:
        while connection.recv_into(buffer):
            pass
