"""A machine of its own for a container client: Linux namespaces whose one way out is a reverse proxy of the test.

In it ``mirror.corp`` is the mirror, over TLS on port 443 and over plain HTTP on port 8080, and nothing else can be
reached: no name server answers. ``/etc/containerd``, ``/etc/docker``, ``/etc/containers``, ``/run`` and ``/var/lib``
are empty, so that a client is configured by the test alone. The host's files are never written.
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

from tests.servers.process import START_WITHIN, dies_with_us

NAME: Final = "mirror.corp"
_ADDRESS: Final = "192.0.2.1"
"""Of a block for documentation (RFC 5737). dockerd does not check certificates of 127.0.0.0/8."""
_NETWORK_NAMESPACE: Final = 0x40000000
_PASSED_ON: Final = ("Accept", "Authorization", "Range", "User-Agent")
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
rm -rf containerd docker containers hosts resolv.conf
mkdir containerd docker containers
printf '127.0.0.1 localhost\\n{_ADDRESS} {NAME}\\n' > hosts
: > resolv.conf
mount -t tmpfs tmpfs /var/lib
mkdir /run/home /run/lock
echo ready
exec sleep infinity
"""


class Node:
    """Commands run in it as root; whatever they left running ends with it."""

    def __init__(
        self, directory: Path, mirror_url: str, tls: ssl.SSLContext, variables: Mapping[str, str] | None = None
    ) -> None:
        """*variables* are those of its commands and daemons."""
        self._directory = directory
        self._variables = variables or {}
        self._mirror_url = mirror_url
        self._tls = tls
        self._machine: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._proxies: list[_Proxy] = []

    def __enter__(self) -> Self:
        log = self._directory / "node.log"
        command = [*dies_with_us(), *_UNSHARE, "sh", "-euc", _MACHINE]
        with log.open("wb") as errors:
            self._machine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert self._machine.stdout is not None
            assert self._machine.stdout.readline() == _READY, f"this machine has no namespaces: {log.read_text()}"
            children = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text()
            self._pid = int(children.split()[0])
            for port, tls in ((443, self._tls), (8080, None)):
                self._proxies.append(_Proxy(self._listener(port), self._mirror_url, tls))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all its processes, then the proxies: these wait for connections to end."""
        assert self._machine is not None
        assert self._machine.stdout is not None
        self._machine.kill()  # with its child, the first process of the pid namespace, with which all others end
        self._machine.wait()
        self._machine.stdout.close()
        for daemon in self._daemons:
            daemon.wait()
        for proxy in self._proxies:
            proxy.close()

    def write(self, files: Mapping[str, str]) -> None:
        """Write files of the node, given by their absolute paths; ``~`` is the home of its user."""
        for path, content in files.items():
            place = path.replace("~", "/run/home", 1)
            script = f"mkdir -p {shlex.quote(os.path.dirname(place))} && cat > {shlex.quote(place)}"  # noqa: PTH120 - of the node, not of this machine
            subprocess.run([*self._enter(), "sh", "-euc", script], input=content.encode(), check=True, timeout=30)

    def run(self, script: str) -> str:
        """The standard output of a shell script. Fails the test with all that it wrote if it fails."""
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

    def requests(self) -> list[Asked]:
        """What the mirror was asked for, over TLS and over plain HTTP."""
        return [asked for proxy in self._proxies for asked in proxy.asked]

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--"]

    def _environment(self) -> dict[str, str]:
        """Nothing of the host's: no proxy, no login, no certificates."""
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": "/run/home", "LANG": "C.UTF-8", **self._variables}

    def _log_of(self, daemon: str) -> Path:
        return self._directory / f"{Path(daemon).name}.log"

    def _logs(self) -> str:
        return "".join(log.read_text(errors="replace")[-2000:] for log in self._directory.glob("*d.log"))

    def _listener(self, port: int) -> socket.socket:
        """A socket that listens in the node while its connections are accepted out here.

        A socket stays in the network namespace in which its thread was when it was made.
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
class Asked:
    """A request that a client sent."""

    method: str
    path: str
    authorization: str | None


class _Proxy(ThreadingHTTPServer):
    """Passes requests for reading on to the mirror, as a TLS proxy of a company does."""

    daemon_threads = False
    """So that `close` waits for the threads of its connections."""

    def __init__(self, listener: socket.socket, mirror_url: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(("", 0), _Passing, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.tls = tls
        self.mirror_url = mirror_url
        self.pool = urllib3.PoolManager(retries=False, maxsize=16, timeout=60)
        self.asked: list[Asked] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": _POLL}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.pool.clear()

    def handle_error(self, *_: object) -> None:
        """A client that goes away, or that does not trust the certificate, is none of the test's business."""


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Proxy

    def setup(self) -> None:
        if self.server.tls:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()  # wrap_socket took the socket from the one that the server closes

    def do_GET(self) -> None:
        self.server.asked.append(Asked(self.command, self.path, self.headers.get("Authorization")))
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        url = self.server.mirror_url + self.path
        answer = self.server.pool.request(
            self.command, url, headers=headers, redirect=False, preload_content=False, decode_content=False
        )
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "keep-alive"):
                self.send_header(name, value)
        self.end_headers()
        for piece in answer.stream(_PIECE):
            self.wfile.write(piece)
        answer.release_conn()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass
