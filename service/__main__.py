"""``python -m service``: the API and ``/v2``, in the foreground."""

# ruff: noqa: E402 - what gevent patches must be patched before others import it
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys
from dataclasses import replace
from typing import Final

import structlog

from mirror import log
from mirror.redis.failures import address_of
from mirror.settings import InvalidSettings, Settings
from service.http.auth import admin_token
from service.http.tls import ServerCertificate
from service.server import Server

_LOG = structlog.get_logger(__name__)
_STREAMS: Final = (
    "blobs are streamed and not redirected to S3: S3 has the host name of MIRROR_PUBLIC_URL or a subdomain of it, "
    "so clients would send S3 their tokens"
)
_HINT: Final = (
    "Give S3 another host name in MIRROR_S3_PUBLIC_ENDPOINT, such as s3.corp for mirror.corp. "
    "MIRROR_SERVE_REDIRECT=false ends this warning."
)


def main() -> int:
    """Serve until SIGTERM. Return 2 if a setting is wrong. Redis and S3 may be away: /readyz reports them."""
    try:
        settings = Settings.load(Settings.require_servable, Settings.require_stores)
        settings = replace(settings, admin_token=admin_token(settings))  # made before the second process starts
        certificate = ServerCertificate.of(settings)
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    log.configure("service", level=settings.log_level, line_format=settings.log_format)
    if settings.serve_redirect != "false" and settings.s3_would_see_tokens:
        _LOG.warning(_STREAMS, hint=_HINT)
    _LOG.info("connecting to Redis", address=address_of(settings.redis_url or ""))
    Server(settings, certificate).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
