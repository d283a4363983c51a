"""A process that reads a registry as a worker does.

Run ``python -m tests.integration.registry.client_process HOST LIMIT THREADS``. It prints how many of its requests
succeeded.
``MIRROR_REDIS_URL`` names the Redis that it shares with others.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

from mirror.errors import RegistryBusy
from mirror.oci.reference import Reference
from mirror.redis.client import Redis
from mirror.registry.client import RegistryClient
from mirror.settings import Settings
from mirror.wiring import build_throttle


def main(host: str, limit: int, threads: int) -> int:
    settings = Settings(insecure_registries=frozenset({host}), allowed_networks=(ip_network("127.0.0.0/8"),))
    throttle = build_throttle(Redis.connect(os.environ["MIRROR_REDIS_URL"]), {host: limit})
    client = RegistryClient.from_settings(settings, throttle=throttle)
    reference = Reference.parse(f"{host}/team/app:1")

    def ask(_: int) -> int:
        try:
            client.head_manifest(reference)
        except RegistryBusy:
            return ask(_)  # as a task that was parked and comes again
        return 1

    with ThreadPoolExecutor(threads) as pool:
        sys.stdout.write(f"{sum(pool.map(ask, range(10 * threads)))}\n")
    throttle.limiter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
