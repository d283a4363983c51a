"""Mirror an image with a built container image: ``smoke_test.py IMAGE``.

The containers run with all restrictions.

The restrictions: not root, a read-only root file system and no capabilities. Valkey, S3, registry and client are real.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import urllib3

from tests.support.servers import DockerRegistry, RcloneS3, ValkeyServer, program
from tests.support.servers.process import free_port

WITHIN: Final = 120.0
"""Seconds within which an expected event must happen. A container on a slow disk takes long."""
_POLL: Final = 0.2


def main(image: str) -> None:
    _check_unknown_command(image)
    with tempfile.TemporaryDirectory(prefix="image-test.") as name, ExitStack() as stack:
        directory = Path(name)
        valkey = stack.enter_context(ValkeyServer(_new_directory(directory / "valkey")))
        s3 = stack.enter_context(RcloneS3(_new_directory(directory / "s3")))
        registry = stack.enter_context(DockerRegistry(_new_directory(directory / "registry")))
        port, token = free_port(), secrets.token_urlsafe(32)
        settings = directory / "settings"
        settings.touch(mode=0o600)  # docker reads it, so no secret is an argument
        variables = s3.settings_env() | {
            "MIRROR_REDIS_URL": valkey.url,
            "MIRROR_HOST": "127.0.0.1",
            "MIRROR_PORT": str(port),
            "MIRROR_ADMIN_TOKEN": token,
            "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MIRROR_INSECURE_REGISTRIES": registry.host,
        }
        settings.write_text("".join(f"{key}={value}\n" for key, value in variables.items() if value))
        for command in ("service", "worker", "scheduler"):
            container = stack.enter_context(_running(image, command, settings))
            _check_restrictions(container)
        _mirror_an_image(directory, registry, f"http://127.0.0.1:{port}", token)
        for command in ("service", "worker", "scheduler"):
            _check_health(command, _container_of(command, image))


def _new_directory(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], check=check, capture_output=True, text=True)


def _say(what: str) -> None:
    print(f"image-test: {what}", flush=True)


def _check_unknown_command(image: str) -> None:
    done = _docker("run", "--rm", "--network", "none", image, "shell", check=False)
    if done.returncode != 64 or not done.stderr.startswith("usage: "):
        raise SystemExit(f"an unknown command ends with {done.returncode}: {done.stderr}")
    _say("an unknown command prints the usage and ends with status 64")


@contextmanager
def _running(image: str, command: str, settings: Path) -> Iterator[str]:
    """Run a container and yield its id. It must stop within ten seconds.

    Its log is shown if the test fails.
    """
    restrictions = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    options = ["--detach", "--network", "host", "--env-file", str(settings), "--label", f"smoke-test={command}"]
    container = _docker("run", *options, *restrictions, image, command).stdout.strip()
    try:
        yield container
        _docker("stop", "--time", "10", container)
        status = _docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip()
        if status != "0":
            raise SystemExit(f"{command} ends with {status} after SIGTERM")
        _say(f"{command} stops after SIGTERM")
    except BaseException:
        log = _docker("logs", container, check=False)
        sys.stderr.write(f"--- {command}\n{log.stdout}{log.stderr}")
        raise
    finally:
        _docker("rm", "--force", container)


def _check_restrictions(container: str) -> None:
    """Check that the user is not root and cannot write to the root file system."""
    script = "import os; print(os.getuid(), os.access('/app', os.W_OK), os.access('/tmp', os.W_OK))"
    answer = _docker("exec", container, "python", "-c", script).stdout.split()
    if answer != ["10001", "False", "True"]:
        raise SystemExit(f"uid, may write /app, may write /tmp: {answer}")
    command = _docker("inspect", "--format", "{{.Path}} {{.Args}}", container).stdout.strip()
    _say(f"{command} runs as uid 10001, read-only")


def _container_of(command: str, image: str) -> str:
    return _docker(
        "ps", "--quiet", "--filter", f"label=smoke-test={command}", "--filter", f"ancestor={image}"
    ).stdout.strip()


def _check_health(command: str, container: str) -> None:
    _eventually(
        lambda: _docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip() == "healthy"
    )
    _say(f"docker reports that the {command} is healthy")


def _mirror_an_image(directory: Path, registry: DockerRegistry, url: str, token: str) -> None:
    digest = _push_image(directory, f"{registry.host}/team/app:1")
    with urllib3.PoolManager(headers={"Authorization": f"Bearer {token}"}, retries=False, timeout=10) as http:
        _eventually(lambda: _status_of(http, f"{url}/readyz") == 200)
        _say("the service is ready")
        job = http.request("POST", f"{url}/v1/jobs", json={"source": f"{registry.host}/team/app:1"}).json()
        _eventually(lambda: _job_of(http, job)["state"] not in ("queued", "running"))
        job = _job_of(http, job)
    if (job["state"], job["digest"]) != ("succeeded", digest):
        raise SystemExit(f"the job ended {job['state']}: {job['error']}")
    mirrored = f"{url.removeprefix('http://')}/{job['target']}"
    _skopeo("copy", "--src-tls-verify=false", f"docker://{mirrored}", f"dir:{directory / 'pulled'}")
    _say(f"mirrored and pulled back: {digest}")


def _status_of(http: urllib3.PoolManager, url: str) -> int | None:
    try:
        return http.request("GET", url).status
    except urllib3.exceptions.HTTPError:
        return None


def _job_of(http: urllib3.PoolManager, job: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = http.request("GET", job["links"]["self"]).json()
    return answer


def _push_image(directory: Path, name: str) -> str:
    """Push a small image with one layer of random bytes, and return its digest."""
    layer = directory / "layer"
    layer.write_bytes(os.urandom(100_000))
    image = directory / "image"
    empty = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {}}
    image.mkdir()
    (image / "version").write_text("Directory Transport Version: 1.1\n")  # containers/image, docs/containers-transports
    descriptors = [_file_blob(image, layer.read_bytes()), _file_blob(image, json.dumps(empty).encode())]
    types = ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.config.v1+json"]
    layer_of, config_of = ({"mediaType": kind, **item} for kind, item in zip(types, descriptors, strict=True))
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_of,
        "layers": [layer_of],
    }
    (image / "manifest.json").write_text(json.dumps(manifest))
    digest_file = directory / "digest"
    _skopeo(
        *("copy", "--preserve-digests", "--dest-tls-verify=false"),
        f"--digestfile={digest_file}",
        f"dir:{image}",
        f"docker://{name}",
    )
    return digest_file.read_text().strip()


def _file_blob(image: Path, content: bytes) -> dict[str, Any]:
    name = hashlib.sha256(content).hexdigest()
    (image / name).write_bytes(content)
    return {"digest": f"sha256:{name}", "size": len(content)}


def _skopeo(*arguments: str) -> None:
    subprocess.run([program("skopeo"), *arguments], check=True, stdout=subprocess.DEVNULL)


def _eventually(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"an expected event did not happen within {WITHIN:.0f} s")
        time.sleep(_POLL)


if __name__ == "__main__":
    main(sys.argv[1])
