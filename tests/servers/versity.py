"""The Versity S3 gateway: the strict S3 of the tests, which checks checksums, preconditions and part lists."""

from __future__ import annotations

from collections.abc import Mapping

from tests.servers.programs import program
from tests.servers.s3 import S3Server


class VersityGateway(S3Server):
    """Keeps objects as files, their metadata in a sidecar directory (not every file system has extended attributes)."""

    name = "versitygw"

    def command(self) -> list[str]:
        sidecar = self.directory / "metadata"
        sidecar.mkdir(exist_ok=True)
        gateway = [str(program("versitygw")), "--port", f"127.0.0.1:{self.port}", "--keep-alive", "--quiet"]
        return [*gateway, "posix", "--sidecar", str(sidecar), str(self.data)]

    def environment(self) -> Mapping[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
