"""The certificate of the service, which may be replaced while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from mirror.settings import InvalidSettings, Settings

_CERTIFICATE: Final = "MIRROR_TLS_CERTIFICATE"
_KEY: Final = "MIRROR_TLS_KEY"
_LOG = structlog.get_logger(__name__)


class _State(NamedTuple):
    """What changes if a file is replaced, also through a symbolic link, as kubelet does it."""

    device: int
    inode: int
    modified: int
    size: int

    @classmethod
    def of(cls, path: Path) -> _State | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


class ServerCertificate:
    """The certificate and the key that the service uses now.

    ``context`` is replaced as a whole, and only after both files were loaded and belong together. Connections that are
    open keep the old one.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load the files. Raises InvalidSettings if they cannot be used."""
        self._certificate, self._key = certificate, key
        self._seen = self._states()
        self.context = load_context(certificate, key)

    @classmethod
    def of(cls, settings: Settings) -> ServerCertificate | None:
        """Load what the settings name. Returns None without TLS. Raises InvalidSettings."""
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        return cls(settings.tls_certificate, settings.tls_key)

    def reload_if_changed(self) -> None:
        """Load the files if they have changed. If they cannot be used, log why, and keep what was loaded before.

        The two files are rarely replaced in one step. So files that do not belong together are loaded again when one of
        them changes.
        """
        states = self._states()
        if states == self._seen:
            return
        self._seen = states  # taken before the files are read, so that a later change is noticed
        try:
            self.context = load_context(self._certificate, self._key)
        except InvalidSettings as error:
            reasons = [f"{name} {text}" for name, texts in error.problems.items() for text in texts]
            _LOG.warning("the new TLS certificate cannot be used; the old one stays", reason="; ".join(reasons))
        else:
            _LOG.info("the TLS certificate was loaded again")

    def _states(self) -> tuple[_State | None, _State | None]:
        return _State.of(self._certificate), _State.of(self._key)


def load_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context, for TLS 1.2 and later. Raises InvalidSettings, which names the setting."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path, label in ((_CERTIFICATE, certificate, b"CERTIFICATE-----"), (_KEY, key, b"PRIVATE KEY-----")):
        _require_pem(name, path, label)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidSettings({_KEY: [f"is not the key of the first certificate in {_CERTIFICATE}"]}) from None
        problem = f"cannot be used with {_KEY}: OpenSSL says {error.reason or 'that one of them is damaged'}"
        raise InvalidSettings({_CERTIFICATE: [problem]}) from None
    except OSError as error:
        raise InvalidSettings({_CERTIFICATE: [f"cannot be read: {error.strerror}"]}) from None
    except ValueError as error:
        raise InvalidSettings({_KEY: [str(error)]}) from None
    return context


def _require_pem(name: str, path: Path, label: bytes) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidSettings({name: [f"cannot be read: {error.strerror}"]}) from None
    if label not in content:
        raise InvalidSettings({name: [f"does not name a PEM file with a {label.decode().lower().strip('-')}"]})


def _refuse_password() -> str:
    """Refuse to ask for a password: OpenSSL would ask on the terminal, and the start would hang."""
    raise ValueError("is encrypted, and the service cannot ask for a password")
