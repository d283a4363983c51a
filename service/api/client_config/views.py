"""``/v1/client-config``: the configuration to hand to nodes, for what the mirror really holds."""

from __future__ import annotations

from typing import Any, Final

from flask import Response

from mirror.errors import ClientUnknown, NoRegistryMirrored
from mirror.settings import Settings
from service.api.client_config.clients import CLIENTS, Mirror, Wanted, client_document
from service.api.client_config.schema import ClientConfigQuery, ClientConfigSchema
from service.core import core
from service.http.blueprint import api_blueprint, refuses

CLIENT_CONFIG: Final = api_blueprint("client-config", "Configuration to hand to nodes that pull from the mirror.")
_SHELL_SCRIPT: Final = "text/x-shellscript"
_AWS: Final = "the URL of the bucket at AWS"


@CLIENT_CONFIG.get("/v1/client-config/<client>")
@CLIENT_CONFIG.arguments(ClientConfigQuery, location="query")
@CLIENT_CONFIG.response(200, ClientConfigSchema)
@refuses(CLIENT_CONFIG, 401, 404, 422, 503)
def read_client_config(query: dict[str, Any], client: str) -> dict[str, Any]:
    """Read the files and the script that make a node pull from the mirror.

    `client` is containerd, docker, podman, cri-o or kubernetes. No answer contains a token.
    """
    return _document(client, query)


@CLIENT_CONFIG.get("/v1/client-config/<client>/script")
@CLIENT_CONFIG.arguments(ClientConfigQuery, location="query")
@CLIENT_CONFIG.response(200, description="The script.")
@CLIENT_CONFIG.doc(responses={"200": {"content": {_SHELL_SCRIPT: {"schema": {"type": "string"}}}}})
@refuses(CLIENT_CONFIG, 401, 404, 422, 503)
def read_client_script(query: dict[str, Any], client: str) -> Response:
    """Read the script alone, to pipe it into `sh` on a node."""
    return Response(str(_document(client, query)["script"]), content_type=f"{_SHELL_SCRIPT}; charset=utf-8")


def _document(client: str, query: dict[str, Any]) -> dict[str, Any]:
    if client not in CLIENTS:
        raise ClientUnknown(client)
    registries, is_complete = query["registries"], True
    if registries is None:
        registries, is_complete = core().registries.read()
    if not registries:
        raise NoRegistryMirrored
    wanted = Wanted(registries, fallback=query["fallback"], ca_file=query["ca_file"])
    document = client_document(client, _mirror(core().settings), wanted)
    return document if is_complete else {**document, "traps": [_incomplete(len(registries)), *document["traps"]]}


def _incomplete(count: int) -> str:
    return f"The mirror has more registries than the {count} that are listed. Name them: '?registries=…'."


def _mirror(settings: Settings) -> Mirror:
    s3_url = settings.s3_public_endpoint or settings.s3_endpoint or _AWS
    return Mirror(
        url=settings.public_url,
        host=settings.public_host,
        needs_login=not settings.anonymous_pull,
        has_pull_token=bool(settings.pull_token),
        insecure_registries=settings.insecure_registries,
        s3_url=s3_url if settings.redirects_blobs else None,
        docker_registry=settings.dockerd_registry,
    )
