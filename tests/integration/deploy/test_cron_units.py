"""The example files that start `mirror-image`: their paths, their limits of time and the units of systemd."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.deploy.cron_script import CRON, SCRIPT, Start, cron_job, of_cron_job, of_crontab, of_unit, unit
from tests.integration.deploy.launch import environment
from tests.support.servers.process import REPOSITORY, program

SERVICE = unit("mirror-images.service")["Service"]
TIMER = unit("mirror-images.timer")["Timer"]
UNITS = ("mirror-images.service", "mirror-images.timer")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        (tmp_path / name).write_text((CRON / name).read_text().replace(SERVICE["ExecStart"][0].split()[0], str(SCRIPT)))
    files = [str(tmp_path / name) for name in UNITS]
    command = [str(program("systemd-analyze")), "verify", "--man=no", *files]
    answer = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_timer_names_a_time_zone_and_starts_a_run_that_was_missed() -> None:
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d:00 Europe/Berlin", TIMER["OnCalendar"][0])
    assert TIMER["Persistent"] == ["true"]
    assert "Unit" not in TIMER  # so it starts the service of the same name


@pytest.mark.parametrize("start", [of_crontab, of_unit, of_cron_job])
def test_each_example_names_the_script_one_list_and_one_token(start: Callable[[], Start]) -> None:
    files = start().files
    assert sorted(files.values()) == ["images", "script", "token"]
    for path, role in files.items():
        if path.startswith("/srv/image-mirror/deploy/"):
            assert os.access(REPOSITORY / Path(path).relative_to("/srv/image-mirror"), os.X_OK)
        assert Path(path).name == {"script": SCRIPT.name, "images": "images.txt"}.get(role, Path(path).name)
    assert start().variables["MIRROR_TOKEN_FILE"] in files


def test_the_service_reads_the_token_that_the_crontab_names() -> None:
    """The services of a unit run without root, so the unit passes the token as a credential."""
    _, source = SERVICE["LoadCredential"][0].split(":")
    assert source == of_crontab().variables["MIRROR_TOKEN_FILE"]
    assert SERVICE["DynamicUser"] == ["yes"]
    assert SERVICE["CapabilityBoundingSet"] == [""]


def seconds(command: list[str]) -> int:
    """Return the value of -t."""
    return int(command[command.index("-t") + 1])


def test_the_script_gives_up_before_what_started_it_kills_it() -> None:
    assert seconds(list(of_unit().command)) < int(SERVICE["TimeoutStartSec"][0])
    job = cron_job()["spec"]["jobTemplate"]["spec"]
    attempts = job["backoffLimit"] + 1
    assert attempts * seconds(list(of_cron_job().command)) < job["activeDeadlineSeconds"]
