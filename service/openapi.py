"""``python -m service.openapi``: print the OpenAPI document, which docs/openapi.json is a copy of."""

from __future__ import annotations

import secrets
import sys

from mirror.settings import Settings
from service.application import create_app
from service.services import Services


def document() -> str:
    """The document as ``/openapi.json`` answers it; needs neither Redis nor S3, and depends on no setting."""
    token = secrets.token_urlsafe()
    settings = Settings(redis_url="redis://127.0.0.1:6379", s3_bucket="unused", admin_token=token)
    services = Services.connect(settings)
    try:
        with create_app(services).test_client() as client:
            return client.get("/openapi.json").get_data(as_text=True) + "\n"
    finally:
        services.close()


if __name__ == "__main__":
    sys.stdout.write(document())
