"""Which repositories a request may mean. Nodes ask for ``library/redis`` in several ways.

- By its full name in the mirror: ``docker.io/library/redis``. Clients with a prefix in their configuration do that.
- With the registry in the query: ``library/redis?ns=docker.io``. containerd does that for a host that is a mirror
  (distribution spec, main branch, "Registry Proxying").
- Without any registry. dockerd does that for its ``registry-mirrors``, which serve Docker Hub only.
"""

from __future__ import annotations

from flask import Request

from mirror.errors import InvalidReference
from mirror.oci.local_image import LocalImage, registry_component
from mirror.oci.reference import normalise_registry, repository_problem
from service.http.bodies import require_single


def namespace(request: Request) -> str | None:
    """Return the registry in the query, as clients wrote it. Raises ParametersRepeated."""
    if not request.query_string:
        return None
    require_single(request, ["ns"])
    return request.args.get("ns") or None


def candidates(repository: str, namespace: str | None, dockerd_registry: str | None) -> tuple[str, ...]:
    """Return the repositories in which to look for *repository*, in order. No I/O.

    A *namespace* restricts a request to that registry. Otherwise the image of a registry and one of our own that have
    the same path could be confused. Without one, our own repositories come before those of *dockerd_registry*.
    Raises InvalidReference for a namespace that is no registry, or gives a name that cannot exist.
    """
    if namespace is not None:
        registry = registry_component(normalise_registry(namespace, namespace))
        if repository.startswith(f"{registry}/"):
            return (repository,)
        name = f"{registry}/{repository}"
        if problem := repository_problem(name):
            raise InvalidReference(name, problem)
        return (name,)
    if dockerd_registry is None or LocalImage(repository).registry_component is not None:
        return (repository,)
    name = f"{registry_component(dockerd_registry)}/{repository}"
    return (repository,) if repository_problem(name) else (repository, name)
