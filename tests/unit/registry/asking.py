"""A process that asks a registry as a worker does: ``python -m tests.unit.registry.asking HOST LIMIT THREADS``.

It prints how many of its requests were answered. ``MIRROR_REDIS_URL`` says which Redis it shares with others.
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
    admission = build_throttle(Redis.connect(os.environ["MIRROR_REDIS_URL"]), {host: limit})
    client = RegistryClient.from_settings(settings, admission=admission)
    reference = Reference.parse(f"{host}/team/app:1")

    def ask(_: int) -> int:
        try:
            client.head_manifest(reference)
        except RegistryBusy:
            return ask(_)  # as a task that was parked and comes again
        return 1

    with ThreadPoolExecutor(threads) as pool:
        sys.stdout.write(f"{sum(pool.map(ask, range(10 * threads)))}\n")
    admission.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
