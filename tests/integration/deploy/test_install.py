"""pip's progress, and the hashes of the locked requirements."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.install import Progress, packages_of
from tests.support.servers.process import REPOSITORY


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    (tmp_path / "base.txt").write_text("# what runs\nboto3==1.0 \\\n    --hash=sha256:00\nFlask==3.0  # a comment\n")
    file = tmp_path / "all.txt"
    file.write_text('-r base.txt\nsix==1.0; python_version < "4"\n\n')
    return file


def shown_for(requirements: Path, output: io.StringIO) -> str:
    progress = Progress(requirements, output)
    for line in ("Collecting boto3==1.0 (from -r base.txt)\n", "  Downloading boto3.whl\n", None, "Collecting Flask\n"):
        progress.update(line)
    progress.update("Installing collected packages: boto3, Flask, six\n")
    progress.end(0, "everything that pip printed")
    return output.getvalue()


def test_the_packages_of_included_files_are_counted_and_hashes_are_not(requirements: Path) -> None:
    assert packages_of(requirements) == {"boto3", "flask", "six"}
    assert (
        len(packages_of(REPOSITORY / "requirements-dev.txt")) > len(packages_of(REPOSITORY / "requirements.txt")) > 20
    )


def test_a_terminal_shows_one_line_that_is_rewritten(requirements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    shown = shown_for(requirements, Terminal())
    assert shown.count("\n") == 1
    assert "package 1 of 3, boto3" in shown
    assert "package 2 of 3, Flask" in shown
    assert "unpacking 3 packages" in shown
    assert "Downloading" not in shown


def test_without_a_terminal_there_are_few_lines(requirements: Path) -> None:
    shown = shown_for(requirements, io.StringIO()).splitlines()
    assert "package 1 of 3, boto3" in shown[0]
    assert shown[-1].startswith(f"Installed {requirements} in ")
    assert len(shown) <= 6
    assert "\r" not in "".join(shown)


def test_a_failure_shows_pips_output_on_stderr_and_has_its_status(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text(f"nothing @ file://{tmp_path}/missing.whl\n")
    command = [sys.executable, "-m", "deploy.local.install", str(file)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "missing.whl" in answer.stderr
    assert f"pip could not install {file}" in answer.stderr


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_required_package_is_locked_with_its_hashes(name: str) -> None:
    asked = set(re.findall(r"^([A-Za-z0-9._-]+==[^\s#;]+)", (REPOSITORY / f"{name}.in").read_text(), re.MULTILINE))
    lines = (REPOSITORY / f"{name}.txt").read_text().replace("\\\n", "").splitlines()
    locked = {line.split()[0]: line for line in lines if re.match(r"[A-Za-z0-9]", line)}
    assert {normal(package) for package in asked} <= {normal(package) for package in locked}
    assert [package for package, line in locked.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)] == []


def normal(package: str) -> str:
    return package.lower().replace("_", "-")
