"""An isolated machine for a container client, made of Linux namespaces.

It reaches only the test's reverse proxies.

There ``mirror.corp`` is the mirror, over TLS on port 443 and over plain HTTP on port 8080. If the test wants it, the
names in `S3_NAMES` are the S3 server, over TLS on port 443 and over plain HTTP on port 9000. The name
``registry-1.docker.io`` is a Docker Hub without images. There is no name server and no other host.

``/etc/containerd``, ``/etc/docker``, ``/etc/containers``, ``/etc/crio``, ``/run`` and ``/var/lib`` are empty, so that
only the test configures a client. The host's files are never written.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self

import urllib3

from tests.support.servers.process import START_WITHIN, killed_with_parent

NAME: Final = "mirror.corp"
_ADDRESS: Final = "192.0.2.1"
"""An address for documentation (RFC 5737), because dockerd does not check certificates of 127.0.0.0/8."""
_NETWORK_NAMESPACE: Final = 0x40000000
S3_NAMES: Final = ("s3.corp", f"s3.{NAME}")
S3_PORT: Final = 9000
DOCKER_HUB: Final = "registry-1.docker.io"
NAMES: Final = (NAME, *S3_NAMES, DOCKER_HUB)
_NOT_FORWARDED: Final = frozenset({"connection", "keep-alive", "expect"})
_PIECE: Final = 1 << 16
_POLL: Final = 0.05
_COMMAND_WITHIN: Final = 90.0
_READY: Final = b"ready\n"
_UNSHARE: Final = (
    *("unshare", "--net", "--mount", "--propagation=private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
_MACHINE: Final = f"""
ip link set lo up
ip address add {_ADDRESS}/32 dev lo
mount -t tmpfs tmpfs /run
mkdir /run/host-etc
mount --bind /etc /run/host-etc
mount -t tmpfs tmpfs /etc
ln -s /run/host-etc/* /etc
cd /etc
rm -rf containerd docker containers crio hosts resolv.conf
mkdir containerd docker containers crio
printf '127.0.0.1 localhost\\n{_ADDRESS} {" ".join(NAMES)}\\n' > hosts
: > resolv.conf
mount -t tmpfs tmpfs /var/lib
mkdir /run/home /run/lock
echo ready
exec sleep infinity
"""


class Node:
    """The isolated machine.

    Commands run in it as root, and all its processes end with the block.
    """

    def __init__(
        self,
        directory: Path,
        mirror_url: str,
        tls: ssl.SSLContext,
        variables: Mapping[str, str] | None = None,
        *,
        s3_url: str | None = None,
    ) -> None:
        """*variables* are the environment variables of its commands and daemons."""
        self._directory = directory
        self._variables = variables or {}
        self._mirror_url = mirror_url
        self._s3_url = s3_url
        self._other_hosts: dict[str, str | None] = {DOCKER_HUB: None, **(dict.fromkeys(S3_NAMES, s3_url))}
        self._tls = tls
        self._machine: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._proxies: list[RecordingProxy] = []
        self._s3_proxy: RecordingProxy | None = None

    def __enter__(self) -> Self:
        log = self._directory / "node.log"
        command = [*killed_with_parent(), *_UNSHARE, "sh", "-euc", _MACHINE]
        with log.open("wb") as errors:
            self._machine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert self._machine.stdout is not None
            assert self._machine.stdout.readline() == _READY, f"this machine has no namespaces: {log.read_text()}"
            children = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text()
            self._pid = int(children.split()[0])
            for port, tls in ((443, self._tls), (8080, None)):
                self._proxies.append(RecordingProxy(self._listener(port), self._mirror_url, tls, self._other_hosts))
            if self._s3_url:
                self._s3_proxy = RecordingProxy(self._listener(S3_PORT), self._s3_url)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all its processes, and then the proxies, which wait for connections to end."""
        assert self._machine is not None
        assert self._machine.stdout is not None
        self._machine.kill()  # its child is the first process of the pid namespace, so all others end too
        self._machine.wait()
        self._machine.stdout.close()
        for daemon in self._daemons:
            daemon.wait()
        for proxy in (*self._proxies, self._s3_proxy):
            if proxy is not None:
                proxy.close()

    def write(self, files: Mapping[str, str]) -> None:
        """Write files in the node, given by their absolute paths.

        ``~`` is its user's home.
        """
        for path, content in files.items():
            place = path.replace("~", "/run/home", 1)
            script = f"mkdir -p {shlex.quote(os.path.dirname(place))} && cat > {shlex.quote(place)}"  # noqa: PTH120 - a path in the node, not on this machine
            subprocess.run([*self._enter(), "sh", "-euc", script], input=content.encode(), check=True, timeout=30)

    def run(self, script: str) -> str:
        """Run a shell script and return its standard output.

        If it fails, fail the test with all its output.
        """
        done = self.attempt(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{self._logs()}"
        return done.stdout

    def attempt(self, script: str) -> subprocess.CompletedProcess[str]:
        command = [*self._enter(), "sh", "-euc", script]
        return subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=_COMMAND_WITHIN, cwd="/"
        )

    def start(self, *daemon: str, ready: str) -> None:
        """Start a daemon, and return when the command *ready* succeeds."""
        with self._log_of(daemon[0]).open("wb") as log:
            command = [*self._enter(), *daemon]
            process = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log, cwd="/")
            self._daemons.append(process)
        deadline = time.monotonic() + 2 * START_WITHIN
        while self.attempt(ready).returncode != 0:
            assert process.poll() is None, f"{daemon[0]} ended:\n{self._logs()}"
            assert time.monotonic() < deadline, f"{daemon[0]} does not answer:\n{self._logs()}"
            time.sleep(_POLL)

    def requests(self) -> list[ProxiedRequest]:
        """Return the requests to the mirror, over TLS and over plain HTTP."""
        return [request for request in self._all_requests() if request.host == NAME]

    def s3_requests(self) -> list[ProxiedRequest]:
        """Return the requests to S3, over TLS and over plain HTTP."""
        return [request for request in self._all_requests() if request.host in S3_NAMES]

    def docker_hub_requests(self) -> list[ProxiedRequest]:
        return [request for request in self._all_requests() if request.host == DOCKER_HUB]

    def _all_requests(self) -> list[ProxiedRequest]:
        proxies = [*self._proxies, *([self._s3_proxy] if self._s3_proxy else [])]
        return [request for proxy in proxies for request in proxy.requests]

    def take_mirror_away(self) -> None:
        """Close every further connection after its request, without an answer."""
        for proxy in self._proxies:
            proxy.forwards_to = None

    def path(self, path: str) -> Path:
        """Return the path by which this process reaches a file of the node."""
        return Path(f"/proc/{self._pid}/root{path}")

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--"]

    def _environment(self) -> dict[str, str]:
        """Return an environment without the host's proxy, logins and certificates."""
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": "/run/home", "LANG": "C.UTF-8", **self._variables}

    def _log_of(self, daemon: str) -> Path:
        return self._directory / f"{Path(daemon).name}.log"

    def _logs(self) -> str:
        return "".join(log.read_text(errors="replace")[-2000:] for log in self._directory.glob("*d.log"))

    def _listener(self, port: int) -> socket.socket:
        """Return a socket that listens in the node, for this process to accept on.

        A socket belongs to the network namespace of the thread that creates it.
        """
        made: list[socket.socket] = []

        def make() -> None:
            with Path(f"/proc/{self._pid}/ns/net").open("rb") as namespace:
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NETWORK_NAMESPACE) == 0
            made.append(socket.create_server((_ADDRESS, port)))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """A request that a client sent, with all its headers."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    @property
    def authorization(self) -> str | None:
        return self._header("authorization")

    @property
    def host(self) -> str:
        """The host that was asked, without its port."""
        return (self._header("host") or "").partition(":")[0]

    def _header(self, wanted: str) -> str | None:
        return next((value for name, value in self.headers if name.lower() == wanted), None)


class RecordingProxy(ThreadingHTTPServer):
    """Forwards requests to the mirror or to S3, as a company's TLS proxy does, and records them.

    Requests for a host in *others* go to its URL, or get a 404 if that is None. All other requests go to *url*.
    """

    daemon_threads = False
    """False, so that `close` waits for the threads of its connections."""

    def __init__(
        self,
        listener: socket.socket,
        url: str,
        tls: ssl.SSLContext | None = None,
        others: Mapping[str, str | None] | None = None,
    ) -> None:
        super().__init__(("", 0), _ProxyHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.tls = tls
        self.forwards_to: str | None = url
        self.others = others or {}
        self.pool = urllib3.PoolManager(retries=False, maxsize=16, timeout=60)
        self.requests: list[ProxiedRequest] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()
        return f"http://{host}:{port}"

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.pool.clear()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close the connection or do not trust the certificate."""


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: RecordingProxy

    def setup(self) -> None:
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()  # wrap_socket detached the socket that the server closes

    def do_GET(self) -> None:
        request = ProxiedRequest(self.command, self.path, tuple(self.headers.items()))
        self.server.requests.append(request)
        backend = self.server.others.get(request.host, self.server.forwards_to)
        if backend is None:
            if request.host in self.server.others:
                self.send_error(404)
            self.close_connection = True
            return
        headers = urllib3.HTTPHeaderDict()
        for name, value in self.headers.items():  # dockerd sends a header Accept for each media type
            if name.lower() not in _NOT_FORWARDED:
                headers.add(name, value)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.pool.urlopen(
            self.command,
            backend + self.path,
            body=body or None,
            headers=headers,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _NOT_FORWARDED:
                self.send_header(name, value)
        self.end_headers()
        for piece in answer.stream(_PIECE):
            self.wfile.write(piece)
        answer.release_conn()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass
