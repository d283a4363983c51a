"""``python -m service`` with a certificate, which a test can replace while the service runs."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path
from typing import Final

import urllib3

from tests.api.live_service import WITHIN, LiveService
from tests.support.fakes.certificates import Authority, Issued
from tests.support.servers import RcloneS3, ValkeyServer

ADDRESS: Final = "127.0.0.1"
PROCESSES: Final = 2


class MountedSecret:
    """A certificate and its key, mounted as kubelet does it: links that lead through one link, which is replaced."""

    def __init__(self, directory: Path) -> None:
        (directory / "authority").mkdir(parents=True)
        self._directory = directory
        self._authority = Authority(directory / "authority")
        self._versions = 0
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        for link in (self.certificate, self.key):
            link.symlink_to(Path("..data") / link.name)
        self.authority = self.replace().authority

    def replace(self, *, key_of: Issued | None = None) -> Issued:
        """Issue a certificate and let the links lead to it. *key_of* gives a key that may be another one's."""
        issued = self._authority.issue(ADDRESS)
        self._versions += 1
        version = self._directory / f"version-{self._versions}"
        version.mkdir()
        files = {"certificate": version / "tls.crt", "key": version / "tls.key", "authority": version / "ca.crt"}
        for name, path in files.items():
            shutil.copy(getattr(key_of if key_of and name == "key" else issued, name), path)
        draft = self._directory / "..draft"
        draft.symlink_to(version.name)
        draft.replace(self._directory / "..data")
        return Issued(**files)


class TlsService(LiveService):
    """A service with a certificate for its address."""

    def __init__(self, directory: Path, valkey: ValkeyServer, s3: RcloneS3) -> None:
        self.secret = MountedSecret(directory / "tls")
        settings = {"MIRROR_TLS_CERTIFICATE": str(self.secret.certificate), "MIRROR_TLS_KEY": str(self.secret.key)}
        super().__init__(directory, valkey, s3, "live", **settings)

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    def answers(self) -> bool:
        with self.client() as client:
            try:
                return client.request("GET", f"{self.url}/v1/jobs", headers=self.headers).status in (200, 503)
            except urllib3.exceptions.HTTPError:
                return False

    def client(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(ca_certs=str(self.secret.authority), retries=False, timeout=WITHIN)

    def connect(self, beginning: bytes = b"", *, window: int | None = None) -> ssl.SSLSocket:
        """Return a connection whose end is only clean if the service says so (close_notify)."""
        plain = self.connect_plain(window=window)
        context = ssl.create_default_context(cafile=str(self.secret.authority))
        client = context.wrap_socket(plain, server_hostname=ADDRESS, suppress_ragged_eofs=False)
        client.sendall(beginning)
        return client

    def served_certificate(self) -> str:
        with self.connect() as client:
            return ssl.DER_cert_to_PEM_cert(client.getpeercert(binary_form=True) or b"")

    def serves(self, issued: Issued) -> bool:
        """Whether both processes serve the certificate. Each accepts some of so many connections."""
        return {self.served_certificate() for _ in range(10 * PROCESSES)} == {issued.certificate.read_text()}

    def troubles(self) -> list[str]:
        return [line["event"] for line in self.lines() if line["level"] in ("warning", "error", "critical")]

    def events(self, beginning: str) -> list[str]:
        return [line["event"] for line in self.lines() if line["event"].startswith(beginning)]


def get(path: str, *, close: bool = False) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Connection: close' if close else 'X-A: b'}\r\n\r\n".encode()
