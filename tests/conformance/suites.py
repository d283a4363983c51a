"""The conformance suites of the OCI distribution spec: how each is built and run, and what its report says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal
from xml.etree import ElementTree

from tests.support.servers.process import REPOSITORY

GITHUB: Final = "https://github.com/opencontainers/distribution-spec"
_MODULE: Final = "github.com/opencontainers/distribution-spec/conformance"
_TOOLS: Final = REPOSITORY / ".tools" / "conformance"
_RUN_WITHIN: Final = 600.0
"""Seconds. A run takes about ten."""

Workflow = Literal["Pull", "Content Discovery", "Push", "Content Management"]
READS: Final[tuple[Workflow, ...]] = ("Pull", "Content Discovery")
"""The workflows that a read-only registry has."""
WORKFLOWS: Final[tuple[Workflow, ...]] = (*READS, "Push", "Content Management")
Outcome = Literal["passed", "failed", "skipped"]
OUTPUT: Final = "output.txt"
_BY_NAME: Final[dict[str, Workflow]] = {one: one for one in WORKFLOWS}
_OUTCOMES: Final[dict[str, Outcome]] = {
    "passed": "passed",
    "Pass": "passed",
    "skipped": "skipped",
    "Skip": "skipped",
    "Disabled": "skipped",
}
"""The outcomes as the suites spell them. Each other one is a failure."""


class SuiteFailed(Exception):
    """A suite could not be built, or wrote no report."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a suite and how it ended. *reason* is empty for one that passed."""

    workflow: Workflow
    name: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a read-only run asks for: names that the mirror holds in *repository*. *manifest* has a referrer."""

    repository: str
    tags: Sequence[str]
    manifest: str
    blob: str


class Suite(ABC):
    """A version of the suite. *version* is a Go pseudo-version. It ends with the commit."""

    name: ClassVar[str]
    version: ClassVar[str]

    @property
    def commit(self) -> str:
        return self.version.rpartition("-")[2]

    @property
    def program(self) -> Path:
        return _TOOLS / f"{self.name}-{self.commit}"

    def build(self, repository: str) -> None:
        """Build the program unless it is there.

        Go's module proxy has the source. If it does not have this version, Git fetches it from *repository*, the URL or
        the path of a clone. Raises SuiteFailed.
        """
        if self.program.exists():
            return
        if shutil.which("go") is None:
            raise SuiteFailed("Go is not installed, and it builds the conformance suites")
        _TOOLS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            source = self._from_proxy() or self._from_git(repository, Path(folder))
            draft = _TOOLS / f".{self.program.name}"
            _run(["go", *self.build_command(), "-o", str(draft), "."], source)
            draft.replace(self.program)

    def run(self, environment: Mapping[str, str], folder: Path) -> list[Check]:
        """Run the suite with its report in *folder*. Return all checks. Raises SuiteFailed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
        command = [str(self.program), *self.arguments()]
        variables = {**inherited, **environment}
        with (folder / OUTPUT).open("wb") as output:
            try:
                subprocess.run(
                    command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT, timeout=_RUN_WITHIN
                )
            except subprocess.TimeoutExpired:
                raise SuiteFailed(f"the suite {self.name} ran for more than {_RUN_WITHIN:.0f} s") from None
        if checks := list(self.checks(folder)):
            return checks
        raise SuiteFailed(f"the suite {self.name} reports nothing; its output is {folder / OUTPUT}")

    def arguments(self) -> Sequence[str]:
        """Return the arguments of the program."""
        return ()

    @abstractmethod
    def build_command(self) -> Sequence[str]:
        """Return the arguments of ``go`` that build the package of the current directory."""

    @abstractmethod
    def read_only(self, url: str, content: Content, folder: Path) -> Mapping[str, str]:
        """Return the variables for a run that pushes nothing and asks for *content*."""

    @abstractmethod
    def pushing(self, url: str, folder: Path) -> Mapping[str, str]:
        """Return the variables for a run that pushes its own content."""

    @abstractmethod
    def checks(self, folder: Path) -> Iterable[Check]:
        """Read the checks of a run from its report in *folder*. Steps of a setup are no checks."""

    def _from_proxy(self) -> Path | None:
        """Return the source from Go's module proxy, None if it does not have this version."""
        found = subprocess.run(
            ["go", "mod", "download", "-json", f"{_MODULE}@{self.version}"],
            capture_output=True,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
        return Path(json.loads(found.stdout)["Dir"]) if found.returncode == 0 else None

    def _from_git(self, repository: str, folder: Path) -> Path:
        _run(["git", "clone", "--quiet", "--no-checkout", repository, str(folder)], folder)
        _run(["git", "checkout", "--quiet", self.commit, "--", "conformance"], folder)
        return folder / "conformance"


class Ginkgo(Suite):
    """Version 1.1.1: Go tests, the last ones that were released."""

    name = "v1.1.1"
    version = "v0.0.0-20250123160558-a139cc423184"
    _CASE: ClassVar = re.compile(
        r"OCI Distribution Conformance Tests (Pull|Push|Content Discovery|Content Management) (.+)", re.DOTALL
    )
    _NO_CHECKS: ClassVar = ("Setup ", "Teardown ")

    def build_command(self) -> Sequence[str]:
        return ("test", "-c")

    def arguments(self) -> Sequence[str]:
        return ("-ginkgo.no-color",)

    def read_only(self, url: str, content: Content, folder: Path) -> Mapping[str, str]:
        """Content discovery is not in it: its checks of referrers compare with what the same run has pushed."""
        return {
            "OCI_ROOT_URL": url,
            "OCI_NAMESPACE": content.repository,
            "OCI_TEST_PULL": "1",
            "OCI_TAG_NAME": content.tags[0],
            "OCI_MANIFEST_DIGEST": content.manifest,
            "OCI_BLOB_DIGEST": content.blob,
            "OCI_REPORT_DIR": str(folder),
        }

    def pushing(self, url: str, folder: Path) -> Mapping[str, str]:
        return {
            "OCI_ROOT_URL": url,
            "OCI_NAMESPACE": "conformance/released",
            "OCI_TEST_PULL": "1",
            "OCI_TEST_CONTENT_DISCOVERY": "1",
            "OCI_REPORT_DIR": str(folder),
        }

    def checks(self, folder: Path) -> Iterable[Check]:
        """Read the JUnit report."""
        report = folder / "junit.xml"
        if not report.exists():
            return
        for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own child wrote it
            found = self._CASE.fullmatch(case.get("name", ""))
            if found and not found[2].startswith(self._NO_CHECKS):
                outcome: Outcome = _OUTCOMES.get(case.get("status", ""), "failed")
                said = (entry.get("message", "") for entry in case if entry.tag in ("skipped", "failure"))
                yield Check(_BY_NAME[found[1]], found[2], outcome, next(said, ""))


class Program(Suite):
    """The program on the spec's main branch, with the checks of the next version of the spec ("dev")."""

    name = "main"
    version = "v0.0.0-20260831232431-97274622c111"
    _LINE: ClassVar = re.compile(
        r"^ *(OCI Conformance Test/.+): (Pass|FAIL|Skip|Disabled|Error)$(?:\n +- (.+))?", re.MULTILINE
    )
    _DISCOVERY: ClassVar = frozenset({"tag-list", "tag list", "referrers"})
    _PUSHES: ClassVar = ("blob-post", "blob-patch", "blob-mount", "manifest-put", "push")
    _DELETES: ClassVar = ("blob-delete", "manifest-delete", "tag-delete", "delete")

    def build_command(self) -> Sequence[str]:
        return ("build", "-buildvcs=false")

    def read_only(self, url: str, content: Content, folder: Path) -> Mapping[str, str]:
        """The digest header is not required: of content that it did not push, the program does not read the header."""
        return {
            **self._common(url, folder),
            "OCI_API_MANIFESTS_DIGEST_HEADER": "false",
            "OCI_REPO1": content.repository,
            "OCI_API_PUSH": "false",
            "OCI_RO_DATA_TAGS": " ".join(content.tags),
            "OCI_RO_DATA_MANIFESTS": content.manifest,
            "OCI_RO_DATA_BLOBS": content.blob,
            "OCI_RO_DATA_REFERRERS": content.manifest,
        }

    def pushing(self, url: str, folder: Path) -> Mapping[str, str]:
        return {
            **self._common(url, folder),
            "OCI_REPO1": "conformance/main",
            "OCI_REPO2": "conformance/main-mounted",
            "OCI_DATA_SPARSE": "true",
        }

    def _common(self, url: str, folder: Path) -> Mapping[str, str]:
        no_deletes = (
            "BLOBS_DELETE",
            "BLOBS_ATOMIC",
            "MANIFESTS_DELETE",
            "MANIFESTS_ATOMIC",
            "TAGS_DELETE",
            "TAGS_ATOMIC",
        )
        return {
            "OCI_REGISTRY": url.removeprefix("http://"),
            "OCI_TLS": "disabled",
            "OCI_VERSION": "dev",
            "OCI_LOG": "error",
            "OCI_RESULTS_DIR": str(folder),
            **{f"OCI_API_{name}": "false" for name in no_deletes},
        }

    def checks(self, folder: Path) -> Iterable[Check]:
        """Read the output. The program panics before it writes a JUnit report if pushes are off."""
        lines = self._LINE.findall((folder / OUTPUT).read_text())
        parents = {name.rpartition("/")[0] for name, _, _ in lines}
        for name, status, reason in lines:
            if name not in parents:
                yield Check(self._workflow(name.split("/")[1:]), name, _OUTCOMES.get(status, "failed"), reason)

    def _workflow(self, parts: Sequence[str]) -> Workflow:
        if "push" in parts or parts[-1].startswith(self._PUSHES) or (len(parts) == 1 and parts[0].endswith(" blobs")):
            return "Push"
        if "delete" in parts or parts[-1].startswith(self._DELETES):
            return "Content Management"
        return "Content Discovery" if parts[-1] in self._DISCOVERY else "Pull"


SUITES: Final[tuple[Suite, ...]] = (Ginkgo(), Program())


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SuiteFailed(f"'{' '.join(command)}' failed:\n{done.stderr.strip()}")
