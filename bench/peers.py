"""The peers: programs that copy from one registry to another.

Their target is a stock registry on the bucket.

They run with the options that their documentation recommends and no others. A peer that has a command for many images
uses it. Otherwise there is one command per image, one after the other, as in a shell's loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.programs import find, require, version
from bench.resources import cpu_seconds
from bench.servers import Registry
from bench.source import SourceImage
from bench.tool import COPY_TIMEOUT, CopyFailed, ReadyTool, Site

_SKOPEO_CACHE: Final = Path("/var/lib/containers/cache")
_SKOPEO_CACHE_FILES: Final = "blob-info-cache-v1.*"
_REGSYNC_PARALLEL: Final = 4


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What to copy, from where and to where.

    *directory* is for configuration and caches.
    """

    source: str
    target: str
    repositories: Mapping[str, Sequence[str]]
    directory: Path

    @property
    def names(self) -> list[str]:
        return [f"{repository}:{tag}" for repository, tags in self.repositories.items() for tag in tags]


Commands = Callable[[CopyRequest], list[list[str]]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A program and the commands with which it copies."""

    name: str
    commands: Commands

    @property
    def program(self) -> Path | None:
        return find(self.name)

    def versions(self) -> Sequence[str]:
        return [version(require(self.name)), version(require("registry", "docker-registry"))]

    @contextmanager
    def ready(self, site: Site) -> Iterator[ReadyTool]:
        storage = site.server.registry_storage(site.bucket, site.endpoint)
        with Registry(site.directory / "target", storage) as registry:
            yield _ReadyPeer(self, site, registry)


class _ReadyPeer:
    def __init__(self, peer: Peer, site: Site, registry: Registry) -> None:
        self._peer = peer
        self._site = site
        self._registry = registry
        self._running: list[int] = []
        self._spent = 0.0
        self._home = site.directory / "home"
        if not self._home.exists():  # a warm bucket keeps its tool's caches
            self._home.mkdir()
            _delete_skopeo_cache()

    def copy(self, images: Sequence[SourceImage]) -> None:
        by_repository: dict[str, list[str]] = defaultdict(list)
        for image in images:
            by_repository[image.repository].append(image.tag)
        request = CopyRequest(self._site.source, self._registry.host, by_repository, self._home)
        for command in self._peer.commands(request):
            self._run(command)

    def cpu(self) -> dict[str, float]:
        return {"own": self._spent, "registry": cpu_seconds(self._registry_roots())}

    def memory(self) -> dict[str, list[int]]:
        return {"own": list(self._running), "registry": self._registry_roots()}

    def _registry_roots(self) -> list[int]:
        return [self._registry.pid] if self._registry.pid else []

    def _run(self, command: Sequence[str]) -> None:
        log = self._site.directory / "peer.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, env=_environment(self._home), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._running.append(child.pid)
        timeout = threading.Timer(COPY_TIMEOUT, child.kill)
        timeout.start()
        _, status, usage = os.wait4(child.pid, 0)
        timeout.cancel()
        self._running.remove(child.pid)
        child.returncode = os.waitstatus_to_exitcode(status)
        self._spent += usage.ru_utime + usage.ru_stime
        if child.returncode:
            raise CopyFailed(f"{command} ended with {child.returncode}:\n{log.read_text(errors='replace')[-2000:]}")


def peers() -> list[Peer]:
    """Return the installed peers, skopeo first."""
    known = [
        Peer("skopeo", _skopeo),
        Peer("crane", _crane),
        Peer("regctl", _regctl),
        Peer("regsync", _regsync),
    ]
    return [peer for peer in known if peer.program]


PEER_NAMES: Final = ("skopeo", "crane", "regctl", "regsync")


def _skopeo(request: CopyRequest) -> list[list[str]]:
    skopeo = [str(require("skopeo")), "--insecure-policy"]
    plain = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    commands = []
    for repository, tags in request.repositories.items():
        if len(tags) > 1:
            parent = repository.rpartition("/")[0]
            sync = ["sync", "--src", "docker", "--dest", "docker", *plain]
            commands.append([*skopeo, *sync, f"{request.source}/{repository}", f"{request.target}/{parent}"])
        else:
            name = f"{repository}:{tags[0]}"
            copy = ["copy", *plain, f"docker://{request.source}/{name}", f"docker://{request.target}/{name}"]
            commands.append([*skopeo, *copy])
    return commands


def _crane(request: CopyRequest) -> list[list[str]]:
    crane = [str(require("crane")), "--insecure", "copy"]
    commands = []
    for repository, tags in request.repositories.items():
        if len(tags) > 1:
            commands.append([*crane, "--all-tags", f"{request.source}/{repository}", f"{request.target}/{repository}"])
        else:
            name = f"{repository}:{tags[0]}"
            commands.append([*crane, f"{request.source}/{name}", f"{request.target}/{name}"])
    return commands


def _regctl(request: CopyRequest) -> list[list[str]]:
    plain = [f"--host=reg={host},tls=disabled" for host in (request.source, request.target)]
    regctl = [str(require("regctl")), *plain, "image", "copy"]
    return [[*regctl, f"{request.source}/{name}", f"{request.target}/{name}"] for name in request.names]


def _regsync(request: CopyRequest) -> list[list[str]]:
    configuration = {
        "version": 1,
        "creds": [{"registry": host, "tls": "disabled"} for host in (request.source, request.target)],
        "defaults": {"parallel": _REGSYNC_PARALLEL},
        "sync": [
            {
                "source": f"{request.source}/{repository}",
                "target": f"{request.target}/{repository}",
                "type": "repository",
            }
            for repository in request.repositories
        ],
    }
    return [[str(require("regsync")), "once", "--config", _written(request, "regsync.yml", configuration)]]


def _written(request: CopyRequest, name: str, configuration: Mapping[str, object]) -> str:
    path = request.directory / name
    path.write_text(json.dumps(configuration))  # JSON is YAML
    return str(path)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without the user's logins, caches and registries.conf.

    Temporary files are in *home*.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home), "TMPDIR": str(home)}


def _delete_skopeo_cache() -> None:
    """Delete skopeo's cache of earlier copies.

    For root it is outside HOME, and no option moves it.
    """
    if os.geteuid() == 0:
        for path in _SKOPEO_CACHE.glob(_SKOPEO_CACHE_FILES):
            path.unlink()
