"""The script `mirror-image` against the real API and a real worker."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.api.live_service import LiveService
from tests.e2e.processes import Process
from tests.integration.deploy.cron_script import (
    CRON,
    SCRIPT,
    Role,
    Start,
    in_shell,
    list_of_config_map,
    of_cron_job,
    of_crontab,
    of_unit,
    run,
)
from tests.integration.deploy.launch import environment
from tests.support import images
from tests.support.fakes.registry import FakeRegistry, Reply
from tests.support.servers import RcloneS3, ValkeyServer
from tests.support.servers.process import program

SHIM = '#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"$CURL_CALLS"\nexec "$CURL" "$@"\n'


@dataclass
class Mirror:
    """A service, a worker, a registry with images to mirror, one that is at its limit, and the script."""

    service: LiveService
    registry: FakeRegistry
    limited: FakeRegistry
    directory: Path

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the script. It polls ten times as often as usual."""
        token, sleep = self.directory / "token", self.directory / "bin" / "sleep"
        token.write_text(f"{self.service.token}\n")
        sleep.parent.mkdir(exist_ok=True)
        sleep.write_text(f'#!/bin/sh\nexec {program("sleep")} "0.$1"\n')
        sleep.chmod(0o755)
        path = f"{sleep.parent}:{os.environ['PATH']}"
        return {"MIRROR_URL": f"{self.service.url}/", "MIRROR_TOKEN_FILE": str(token), "PATH": path}

    def script(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run([SCRIPT, *arguments], self.variables | variables)

    def source(self, name: str) -> str:
        """Put an image into the registry, and return the source to mirror it from."""
        repository, _, tag = name.partition(":")
        self.registry.put(images.image(images.layer(name)), repository, tag)
        return f"{self.registry.host}/{name}"

    def job(self, output: str) -> Any:
        """Return the job whose id the script printed."""
        found = re.search(r"job_\w+", output)
        assert found, output
        return self.ask("GET", f"/v1/jobs/{found[0]}")

    def ask(self, method: str, path: str) -> Any:
        url = f"{self.service.url}{path}"
        return urllib3.request(method, url, headers=dict(self.service.headers), retries=False).json()


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, rclone_s3: RcloneS3) -> Iterator[Mirror]:
    directory = tmp_path_factory.mktemp("cron")
    (directory / "valkey").mkdir()
    with ExitStack() as stack:
        registry, limited = stack.enter_context(FakeRegistry()), stack.enter_context(FakeRegistry())
        limited.script(lambda *_: Reply(429, {"Retry-After": "600"}, b""))
        valkey = stack.enter_context(ValkeyServer(directory / "valkey"))
        hosts = f"{registry.host},{limited.host}"
        allowed = {"MIRROR_INSECURE_REGISTRIES": hosts, "MIRROR_ALLOWED_NETWORKS": "127.0.0.0/8"}
        service = stack.enter_context(LiveService(directory, valkey, rclone_s3, "cron", **allowed))
        stores = {**rclone_s3.settings_env("cron"), "MIRROR_REDIS_URL": valkey.url}
        stack.enter_context(Process("worker", stores | allowed, directory / "worker.log"))
        yield Mirror(service, registry, limited, directory)


def test_it_waits_until_the_image_is_there_under_the_given_name(mirror: Mirror) -> None:
    answer = mirror.script(f"{mirror.source('one/app:1')}=team/app:stable")
    assert (answer.returncode, answer.stderr) == (0, "")
    job = mirror.job(answer.stdout)
    assert (job["state"], job["target"]) == ("succeeded", "team/app:stable")
    assert answer.stdout.splitlines()[-1].startswith(f"{job['id']}: succeeded")


def test_several_images_are_one_job_and_a_second_time_they_are_unchanged(mirror: Mirror) -> None:
    wanted = [mirror.source("several/a:1"), f"{mirror.source('several/b:1')}=team/b:1"]
    first, second = mirror.script(*wanted), mirror.script(*wanted)
    assert (first.returncode, second.returncode) == (0, 0)
    tasks = mirror.job(first.stdout)["tasks"]
    assert [task["target"] for task in tasks][1] == "team/b:1"
    assert len(tasks) == 2
    assert "succeeded, 2 of 2 images" in second.stdout
    assert second.stdout.rstrip().endswith("2 unchanged")


def test_each_failed_image_is_reported_with_code_reason_and_hint(mirror: Mirror) -> None:
    missing = f"{mirror.registry.host}/partial/missing:1"
    answer = mirror.script(mirror.source("partial/app:1"), missing)
    assert answer.returncode == 1
    assert "ended partial" in answer.stderr
    (task,) = [task for task in mirror.job(answer.stderr)["tasks"] if task["state"] == "failed"]
    error = task["error"]
    (report,) = [line for line in answer.stderr.splitlines() if missing in line]
    assert report == f"mirror-image: {missing}: {error['code']}: {error['message']} ({error['hint']})"


def test_a_single_failed_image_is_reported_too(mirror: Mirror) -> None:
    answer = mirror.script(f"{mirror.registry.host}/single/missing:1")
    assert answer.returncode == 1
    assert "ended failed" in answer.stderr
    assert "MANIFEST_UNKNOWN" in answer.stderr


def test_a_waiting_job_is_reported_with_its_reason_until_the_timeout(mirror: Mirror) -> None:
    answer = mirror.script("-t", "6", f"{mirror.limited.host}/limited/app:1")
    assert answer.returncode == 1
    assert f", waits (rate_limited, {mirror.limited.host}) until 20" in answer.stdout
    assert "has not ended within 6 s" in answer.stderr
    assert mirror.job(answer.stderr)["state"] == "queued"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["redis:7=docker.io/library/other:1", "UPPER/case"], "UPPER/case was not accepted: "),
        (["redis:7=quay.io/team/redis:7"], "TARGET_RESERVED: "),
    ],
)
def test_an_image_that_can_never_be_mirrored_is_not_accepted_and_the_reason_is_printed(
    mirror: Mirror, arguments: list[str], reason: str
) -> None:
    answer = mirror.script(*arguments)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert reason in answer.stderr
    assert re.search(r"was not accepted: [A-Z_]+: .+ \(.+\)", answer.stderr)


def test_a_wrong_token_is_reported_and_never_printed(mirror: Mirror, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("a-wrong-token-of-some-length")
    answer = mirror.script("redis:7", MIRROR_TOKEN_FILE=str(wrong))
    assert answer.returncode == 1
    assert "UNAUTHORIZED" in answer.stderr
    assert "a-wrong-token" not in answer.stderr + answer.stdout


def test_the_token_is_in_no_argument(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text(SHIM)
    (tmp_path / "curl").chmod(0o755)
    calls = tmp_path / "calls"
    path = f"{tmp_path}:{os.environ['PATH']}"
    answer = mirror.script(mirror.source("hidden/app:1"), PATH=path, CURL=str(program("curl")), CURL_CALLS=str(calls))
    assert answer.returncode == 0
    assert len(calls.read_text().splitlines()) >= 2
    assert mirror.service.token not in calls.read_text()


def test_every_canceled_image_of_a_long_list_is_reported(mirror: Mirror, tmp_path: Path) -> None:
    """The tasks of 250 images are three pages."""
    sources = [f"{mirror.limited.host}/long/app-{number}:1" for number in range(250)]
    (tmp_path / "images").write_text("\n".join(sources))
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            [SCRIPT, "-f", tmp_path / "images"],
            env=environment() | mirror.variables,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as script,
    ):
        assert script.stdout
        job = script.stdout.readline().partition(":")[0]
        mirror.ask("POST", f"/v1/jobs/{job}/cancel")
    assert script.returncode == 1
    ended, *reported = (tmp_path / "errors").read_text().splitlines()
    assert ended == f"mirror-image: {job} ended canceled"
    assert reported == [f"mirror-image: {source}: canceled" for source in sources]


@pytest.mark.parametrize(
    ("start", "example"),
    [
        pytest.param(of_crontab, (CRON / "images.txt").read_text, id="crontab"),
        pytest.param(of_unit, (CRON / "images.txt").read_text, id="systemd"),
        pytest.param(of_cron_job, list_of_config_map, id="kubernetes"),
    ],
)
def test_each_example_mirrors_its_list(
    mirror: Mirror, tmp_path: Path, start: Callable[[], Start], example: Callable[[], str]
) -> None:
    for name in ("redis:7", "alpine:3.20"):
        mirror.source(name)
    images = re.sub(r"^(?=\w)", f"{mirror.registry.host}/", example(), flags=re.MULTILINE)
    started, variables = start(), {"PATH": mirror.variables["PATH"]}
    if start is of_cron_job:
        (shell, _), variables = in_shell("busybox", tmp_path / "busybox")
        started = replace(started, command=[part.replace("/bin/sh", str(shell)) for part in started.command])
    contents: dict[Role, str] = {"script": SCRIPT.read_text(), "images": images, "token": mirror.service.token}
    answer = started.run(tmp_path, mirror.service.url, contents, variables)
    assert (answer.returncode, answer.stderr) == (0, "")
    (job,) = mirror.ask("GET", "/v1/jobs?limit=1")["items"]
    first, second = mirror.ask("GET", f"/v1/jobs/{job['id']}/tasks")["items"]
    assert (first["state"], second["state"]) == ("succeeded", "succeeded")
    assert first["target"].endswith("/redis:7")
    assert second["target"] == "base/alpine:3.20"
