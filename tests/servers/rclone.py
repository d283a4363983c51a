"""`rclone serve s3`, the S3 that `make run` embeds."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.programs import program
from tests.servers.s3 import S3Server


class RcloneS3(S3Server):
    """Ignores preconditions and ``x-amz-checksum-*``, and answers a range with 200. SIGKILL loses its open uploads."""

    name = "rclone"

    def command(self) -> list[str]:
        address = ["--addr", f"127.0.0.1:{self.port}", "--config", str(self.directory / "rclone.conf")]
        return [str(program("rclone")), "serve", "s3", *address, str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}


class EmbeddedS3(RcloneS3):
    """As `make run` starts it where it matters for reading: without an MD5 of the whole object for every GET."""

    def command(self) -> list[str]:
        *command, directory = super().command()
        return [*command, "--etag-hash", "", "--buffer-size", "0", directory]
