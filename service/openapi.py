"""``python -m service.openapi``: print the OpenAPI document. docs/openapi.json is a copy of it."""

from __future__ import annotations

import secrets
import sys

from mirror.settings import Settings
from service.app import create_app
from service.core import Service


def document() -> str:
    """Return the document that ``/openapi.json`` serves. It needs neither Redis nor S3, and depends on no setting."""
    token = secrets.token_urlsafe()
    settings = Settings(redis_url="redis://127.0.0.1:6379", s3_bucket="unused", admin_token=token)
    service = Service.connect(settings)
    try:
        with create_app(service).test_client() as client:
            return client.get("/openapi.json").get_data(as_text=True) + "\n"
    finally:
        service.close()


if __name__ == "__main__":
    sys.stdout.write(document())
