"""Read a blob from a stock registry on loopback with our own client."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.conftest import MIB
from bench.servers import Registry
from bench.shapes import ImageSpec, LayerSpec, Shape
from bench.source import Loader, SourceImage
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.registry.client import RegistryClient
from mirror.settings import Settings
from tests.support.fakes.throttle import UNTHROTTLED

_SHAPE = Shape("reading", "one 64 MiB layer", (ImageSpec("bench/reading", "1", (LayerSpec("reading", 64 * MIB),)),))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("source")
    with Registry(directory, {"filesystem": {"rootdirectory": str(directory / "images")}}) as server:
        yield server


@pytest.fixture(scope="module")
def image(registry: Registry) -> SourceImage:
    return Loader(registry.url).load(_SHAPE).images[0]


@pytest.fixture
def client(registry: Registry, tmp_path: Path) -> Iterator[RegistryClient]:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    settings = Settings(data_dir=tmp_path, allowed_networks=loopback, insecure_registries=frozenset({registry.host}))
    client = RegistryClient.from_settings(settings, throttle=UNTHROTTLED)
    yield client
    client.close()


def test_reading_a_blob(
    benchmark: BenchmarkFixture, client: RegistryClient, registry: Registry, image: SourceImage
) -> None:
    layer = image.blobs[1]
    blob = Descriptor(layer.media_type, Digest.parse(layer.digest), layer.size)
    reference = Reference.parse(f"{registry.host}/{image.repository}:{image.tag}")
    buffer = memoryview(bytearray(MIB))

    def read() -> int:
        with client.open_blob(reference, blob) as stream:
            return sum(iter(lambda: stream.readinto(buffer), 0))

    assert benchmark(read) == layer.size
