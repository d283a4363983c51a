from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.deploy.launch import Launch


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """A running mirror in a folder with a difficult name.

    It has two workers, and its caller has AWS variables.
    """
    directory = tmp_path_factory.mktemp("running")
    elsewhere = {"AWS_PROFILE": "work", "AWS_SESSION_TOKEN": "expired", "AWS_CA_BUNDLE": "/nowhere"}
    with Launch(directory, data=directory / "d #1 %s; x'y", MIRROR_WORKERS="2", **elsewhere) as launch:
        yield launch.ready()
