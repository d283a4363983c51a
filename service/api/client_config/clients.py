"""What each container client reads to pull from the mirror, and what is to be known about it. Pure functions, no I/O.

The file formats are those of containerd's ``docs/hosts.md``, containers-registries.conf(5), crio.conf(5) and dockerd's
``daemon.json``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mirror.errors import FallbackUnavoidable
from mirror.oci.local_image import registry_component
from mirror.oci.reference import DOCKER_HUB
from service.api.client_config.script import LOGIN, LOGIN_COMMAND, TOKEN_VARIABLE, NodeFile, script

_HOSTS_FOLDER: Final = "/etc/containerd/certs.d"
_REGISTRIES_CONF: Final = "/etc/containers/registries.conf.d/50-image-mirror.conf"
_CRIO_LOGIN: Final = "/etc/crio/image-mirror-auth.json"
_LOGIN_OF_HOME: Final = '"$HOME/.config/containers/auth.json"'
_SHORT_NAMES: Final = (
    "'unqualified-search-registries' makes 'redis:7' an image of Docker Hub. It replaces the node's own list, if any.",
)
_NO_ANSWER: Final = "no answer, an error, or an image that the mirror does not hold"
_FALLS_BACK: Final = f"If the mirror fails ({_NO_ANSWER}), the client asks the original registry, without a message."
_FULL_NAMES_ONLY: Final = f"If the mirror fails ({_NO_ANSWER}), a pull by full name fails. dockerd uses no mirror."
_FAILS: Final = f"If the mirror fails ({_NO_ANSWER}), the pull fails. The original registry is never asked."


@dataclass(frozen=True, slots=True)
class Mirror:
    """What nodes must know about the mirror.

    ``insecure_registries`` are original registries that speak plain HTTP. ``s3_url`` is where blobs are redirected to,
    None if they are streamed. ``docker_registry`` is the registry whose images dockerd asks for without its name.
    """

    url: str
    host: str
    needs_login: bool
    has_pull_token: bool
    insecure_registries: frozenset[str] = frozenset()
    s3_url: str | None = None
    docker_registry: str | None = DOCKER_HUB

    @property
    def is_plain_http(self) -> bool:
        return self.url.startswith("http://")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration is for. ``ca_file`` is the path of the CA of the mirror's certificate on the node."""

    registries: tuple[str, ...]
    fallback: bool = True
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class _Config:
    """What is to be done on a node, and what is to be known.

    The script runs ``preparation``, installs ``files``, and runs ``restart`` and ``login``. ``functions`` are the shell
    files that these commands use. ``reload`` replaces ``restart`` in the script.
    """

    registries: tuple[str, ...]
    files: tuple[NodeFile, ...]
    traps: tuple[str, ...]
    login: str | None = None
    restart: str | None = None
    reload: str | None = None
    preparation: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    when_the_mirror_is_away: str = _FALLS_BACK


def client_document(client: str, mirror: Mirror, wanted: Wanted) -> dict[str, Any]:
    """Return the document that describes the configuration of *client*, which is one of `CLIENTS`.

    Raises FallbackUnavoidable.
    """
    config = CLIENTS[client](mirror, wanted)
    needs_token = config.login is not None or any(LOGIN in file.content for file in config.files)
    restart = f"if [ -d /run/systemd/system ]; then {config.restart}; fi" if config.restart else None
    steps = [*config.preparation, *(file.install for file in config.files), config.reload or restart, config.login]
    return {
        "client": client,
        "mirror": mirror.url,
        "registries": config.registries,
        "fallback": wanted.fallback,
        "files": [{"path": f.path, "mode": f.mode, "content": f.content, "install": f.install} for f in config.files],
        "login": config.login,
        "placeholders": {LOGIN: LOGIN_COMMAND} if any(LOGIN in file.content for file in config.files) else {},
        "restart": config.restart,
        "script": script(
            client, mirror.url, [step for step in steps if step], needs_token=needs_token, functions=config.functions
        ),
        "when_the_mirror_is_away": config.when_the_mirror_is_away if wanted.fallback else _FAILS,
        "traps": [*_traps_of_mirror(mirror, needs_token=needs_token), *config.traps],
    }


def _containerd(mirror: Mirror, wanted: Wanted) -> _Config:
    """Return one hosts.toml for each registry, and one for the mirror's own name if that needs one."""
    traps = [
        f"ctr reads these files only with '--hosts-dir {_HOSTS_FOLDER}'. nerdctl reads them by default.",
        "The kubelet reads them only if config.toml names the folder. The client 'kubernetes' takes care of that.",
        "The URL has no path. containerd names the registry in 'ns'. Only with 'override_path' is there a path.",
        "If nothing answers at the mirror's address, containerd waits up to 30 seconds before it asks elsewhere.",
    ]
    needs_own = mirror.needs_login or mirror.is_plain_http or wanted.ca_file
    own = [_hosts_file(mirror.host, _hosts_toml(mirror, wanted, None))] if needs_own else []
    hosts = [_hosts_file(host, _hosts_toml(mirror, wanted, _upstream(mirror, host))) for host in wanted.registries]
    return _Config(wanted.registries, tuple(hosts + own), tuple(traps))


def _kubernetes(mirror: Mirror, wanted: Wanted) -> _Config:
    """Return containerd's files, and make its CRI plugin read them. Nodes with CRI-O need the client "cri-o"."""
    traps = (
        "Run the script on every node, best before it joins: in cloud-init, or in the image of the node.",
        "Nodes with CRI-O need the client 'cri-o'. k3s and RKE2 have a file of their own, registries.yaml.",
        f"The kubelet uses no imagePullSecret for '{mirror.host}' for 'redis:7'. It looks at the image's name.",
        "containerd sends an imagePullSecret for the original registry to the mirror too, if that asks for a login.",
        "The first run restarts containerd. Pods keep running. Later changes of hosts.toml need no restart.",
    )
    config = _containerd(mirror, wanted)
    return _Config(
        config.registries,
        config.files,
        (*traps, *config.traps[2:]),
        preparation=("enable_hosts_folder",),
        functions=("kubernetes.sh",),
    )


def _podman(mirror: Mirror, wanted: Wanted) -> _Config:
    """Return one registries.conf, which podman, buildah and skopeo read, and a login."""
    login = (
        f'printf %s "${TOKEN_VARIABLE}" | "$(command -v podman || command -v skopeo || command -v buildah)" login '
        f"--authfile {_LOGIN_OF_HOME} --username mirror --password-stdin {mirror.host}"
    )
    traps = list(_SHORT_NAMES) if DOCKER_HUB in wanted.registries else []
    if mirror.needs_login:
        traps += [
            "The script logs root in, and the mirror must answer for that. Every other user must log in too.",
            f"A login ends with a reboot unless '--authfile {_LOGIN_OF_HOME}' keeps it.",
        ]
    return _Config(
        wanted.registries,
        (NodeFile(_REGISTRIES_CONF, _registries_conf(mirror, wanted)),),
        tuple(traps),
        login=login if mirror.needs_login else None,
        preparation=_ca_copy(mirror, wanted, "/etc/containers"),
    )


def _cri_o(mirror: Mirror, wanted: Wanted) -> _Config:
    """Return podman's file, and a login that CRI-O sends to the mirror."""
    files = [NodeFile(_REGISTRIES_CONF, _registries_conf(mirror, wanted))]
    traps = [
        "These files are not tested with CRI-O. podman and skopeo, which read them with the same library, are tested.",
        *(_SHORT_NAMES if DOCKER_HUB in wanted.registries else ()),
        "CRI-O never sends an imagePullSecret to a mirror.",
    ]
    if mirror.needs_login:
        auths = {"auths": {mirror.host: {"auth": LOGIN}}}
        files += [
            NodeFile(_CRIO_LOGIN, json.dumps(auths, indent=2) + "\n"),
            NodeFile(
                "/etc/crio/crio.conf.d/50-image-mirror.conf", f"[crio.image]\nglobal_auth_file = {_toml(_CRIO_LOGIN)}\n"
            ),
        ]
        traps.append(
            "If 'global_auth_file' is set already, only one of the two files counts. Then put all logins into one file."
        )
    restart = "systemctl try-restart crio" if mirror.needs_login else "systemctl try-reload-or-restart crio"
    copy = _ca_copy(mirror, wanted, "/etc/containers")
    return _Config(wanted.registries, tuple(files), tuple(traps), restart=restart, preparation=copy)


def _docker(mirror: Mirror, wanted: Wanted) -> _Config:
    """Return dockerd's settings if the mirror is open, else a login for full names. Raises FallbackUnavoidable."""
    if not wanted.fallback:
        raise FallbackUnavoidable("dockerd")
    served = [host for host in wanted.registries if host == mirror.docker_registry and not mirror.needs_login]
    settings = {"registry-mirrors": [mirror.url]} if served else {}
    if mirror.is_plain_http:
        settings["insecure-registries"] = [mirror.host]
    daemon_json = NodeFile("/etc/docker/daemon.json", json.dumps(settings, indent=2) + "\n", "merge_daemon_json")
    full_name = f"docker pull {mirror.host}/docker.io/library/redis:7"
    traps = [
        f"dockerd uses mirrors for Docker Hub only. Pull images of other registries by their full name: '{full_name}'.",
        "dockerd never sends its mirrors the mirror's login, also not after 'docker login' to the mirror.",
        "dockerd sends its mirrors the node's login for Docker Hub, if there is one. So the mirror must use TLS.",
        "If daemon.json cannot be read any more, dockerd does not start. Check it with 'dockerd --validate'.",
    ]
    if mirror.needs_login:
        traps.insert(0, "dockerd cannot use a mirror that needs a login. So 'registry-mirrors' is not set.")
    login = f'printf %s "${TOKEN_VARIABLE}" | docker login --username mirror --password-stdin {mirror.host}'
    return _Config(
        tuple(served),
        (daemon_json,) if settings else (),
        tuple(traps),
        login=login if mirror.needs_login else None,
        restart="systemctl try-reload-or-restart docker" if settings else None,
        reload=f"reload_dockerd {mirror.host}" if settings else None,
        preparation=_ca_copy(mirror, wanted, "/etc/docker"),
        functions=("docker.sh",) if settings else (),
        when_the_mirror_is_away=_FALLS_BACK if served else _FULL_NAMES_ONLY,
    )


CLIENTS: Final[Mapping[str, Callable[[Mirror, Wanted], _Config]]] = {
    "containerd": _containerd,
    "docker": _docker,
    "podman": _podman,
    "cri-o": _cri_o,
    "kubernetes": _kubernetes,
}


def _hosts_file(host: str, content: str) -> NodeFile:
    return NodeFile(f"{_HOSTS_FOLDER}/{host}/hosts.toml", content)


def _hosts_toml(mirror: Mirror, wanted: Wanted, upstream: str | None) -> str:
    """Return a hosts.toml. Without *upstream*, and without fallback, the mirror itself is the server."""
    settings = ['capabilities = ["pull", "resolve"]']
    if wanted.ca_file:
        settings.append(f"ca = {_toml(wanted.ca_file)}")
    header = [f'authorization = "Basic {LOGIN}"'] if mirror.needs_login else []
    if upstream is None or not wanted.fallback:
        lines = [f"server = {_toml(mirror.url)}", *settings]
        lines += ["", "[header]", *(f"  {line}" for line in header)] if header else []
        lines += ["", "# containerd 1.6 ignores a file without this table.", "[host]"]
    else:
        table = f"host.{_toml(mirror.url)}"
        lines = [f"server = {_toml(upstream)}", "", f"[{table}]", *(f"  {line}" for line in settings)]
        lines += ["", f"  [{table}.header]", *(f"    {line}" for line in header)] if header else []
    return "\n".join(lines) + "\n"


def _registries_conf(mirror: Mirror, wanted: Wanted) -> str:
    """Return a containers-registries.conf(5). Without fallback it replaces the registry, else it has a mirror."""
    short = [f"unqualified-search-registries = [{_toml(DOCKER_HUB)}]"] if DOCKER_HUB in wanted.registries else []
    tables = [] if not mirror.is_plain_http else [_table("registry", location=mirror.host, insecure=True)]
    for registry in wanted.registries:
        copy = f"{mirror.host}/{registry_component(registry)}"
        if wanted.fallback:
            insecure = registry in mirror.insecure_registries
            tables.append(_table("registry", prefix=registry, location=registry, insecure=insecure))
            tables.append(_table("registry.mirror", location=copy, insecure=mirror.is_plain_http))
        else:
            tables.append(_table("registry", prefix=registry, location=copy, insecure=mirror.is_plain_http))
    return "\n\n".join([*short, *tables]) + "\n"


def _table(name: str, *, insecure: bool, **values: str) -> str:
    lines = [f"[[{name}]]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join([*lines, "insecure = true"] if insecure else lines)


def _ca_copy(mirror: Mirror, wanted: Wanted, folder: str) -> tuple[str, ...]:
    """Return a command that copies the CA to where docker, podman and CRI-O look for it."""
    if not wanted.ca_file:
        return ()
    return (f"install -D -m 0644 {shlex.quote(wanted.ca_file)} {folder}/certs.d/{mirror.host}/ca.crt",)


def _traps_of_mirror(mirror: Mirror, *, needs_token: bool) -> list[str]:
    traps = []
    if needs_token:
        traps.append(
            f"The script reads the pull token from the variable {TOKEN_VARIABLE}. The token can only read images. "
            "Never give a node the admin token."
        )
        if not mirror.has_pull_token:
            traps.append(f"The mirror has no pull token yet. Set {TOKEN_VARIABLE} for the service.")
    if mirror.s3_url:
        traps.append(f"The mirror redirects blobs to S3. So nodes must reach {mirror.s3_url} too.")
    if mirror.is_plain_http:
        traps.append("The mirror has no TLS. Anyone on the network path can read a login and replace images.")
    return traps


def _upstream(mirror: Mirror, registry: str) -> str:
    """Return the URL of the original registry."""
    if registry == DOCKER_HUB:
        return "https://registry-1.docker.io"
    return f"{'http' if registry in mirror.insecure_registries else 'https'}://{registry}"


def _toml(text: str) -> str:
    """Return *text* as a TOML string. JSON strings without control characters are TOML strings."""
    return json.dumps(text, ensure_ascii=False)
