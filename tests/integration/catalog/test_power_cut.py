"""What the embedded S3 has stored survives a power cut.

The objects lie on a file system in a file (a loop device). What that file holds is what a disk would hold: data that is
still in the kernel's cache of the upper file system is not in it. So a copy of the file is the disk after a power cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror.storage import layout
from mirror.wiring import build
from tests.api.seeded_catalog import SeededCatalog
from tests.conftest import SettingsForServer
from tests.support import images
from tests.support.servers import RcloneS3
from tests.support.servers.process import in_ci

_SIZE = 64 * 2**20


@dataclass(frozen=True)
class Disk:
    """A file system of its own: *image* is the file that stands for the disk."""

    image: Path
    folder: Path

    def after_a_power_cut(self, folder: Path) -> Path:
        """Mount what was on the disk at this moment."""
        copy = self.image.with_name("after.img")
        shutil.copyfile(self.image, copy)
        mount(copy, folder)
        return folder


def mount(image: Path, folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        (pytest.fail if in_ci() else pytest.skip)("only root can mount a file system")
    found = Disk(tmp_path / "disk.img", tmp_path / "disk")
    with found.image.open("wb") as file:
        file.truncate(_SIZE)
    subprocess.run(
        ["mkfs.ext4", "-q", found.image], check=True, env={**os.environ, "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    )
    mount(found.image, found.folder)
    yield found
    for folder in (tmp_path / "after", found.folder):
        if folder.exists():
            subprocess.run(["umount", folder], check=True)


def test_a_published_image_survives_a_power_cut(
    disk: Disk, tmp_path: Path, redis_url: str, settings_for_server: SettingsForServer
) -> None:
    image = images.image(images.layer("a", 2**20))
    with RcloneS3(disk.folder) as server:
        core = build(settings_for_server(server, "", redis_url=redis_url, s3_sync_folder=server.data))
        SeededCatalog(core).hold(image, "team/app:1")
        found = disk.after_a_power_cut(tmp_path / "after") / "data" / server.bucket
        core.close()
    for digest, content in image.all_blobs().items():
        assert (found / layout.blob_key(digest)).read_bytes() == content
    assert (found / layout.tag_current_key("team/app", "1")).read_text() == str(image.digest)
    assert (found / layout.revision_link_key("team/app", image.digest)).read_text() == str(image.digest)
