"""The real servers that tests use: child processes on free loopback ports."""

from __future__ import annotations

from tests.support.servers.docker_registry import DockerRegistry, FilesystemStorage, S3Storage
from tests.support.servers.process import Server, ServerDidNotStart, program
from tests.support.servers.s3 import REGION, EmbeddedS3, RcloneS3, S3Server, VersityGateway
from tests.support.servers.valkey import ValkeyServer

__all__ = [
    "REGION",
    "DockerRegistry",
    "EmbeddedS3",
    "FilesystemStorage",
    "RcloneS3",
    "S3Server",
    "S3Storage",
    "Server",
    "ServerDidNotStart",
    "ValkeyServer",
    "VersityGateway",
    "program",
]
