"""Run the conformance suites and report: ``python -m tests.conformance``. See docs/reference/conformance.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.settings import Settings
from mirror.wiring import Core, build
from tests.api.live_service import LiveService
from tests.api.seeded_catalog import SeededCatalog
from tests.conformance.pushing_proxy import PushedContent, PushingProxy
from tests.conformance.suites import GITHUB, READS, SUITES, WORKFLOWS, Check, Content, Suite, SuiteFailed
from tests.support import images
from tests.support.harness import mark_built
from tests.support.servers import REGION, RcloneS3, ValkeyServer
from tests.support.servers.process import REPOSITORY

_PAGE: Final = REPOSITORY / "docs" / "reference" / "conformance.md"
_BEGIN, _END = "<!-- report: tests/conformance/run --write -->", "<!-- end of report -->"
_PREFIX: Final = "conformance"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a suite. *way* says how it got its content."""

    suite: Suite
    way: str
    checks: Sequence[Check]

    @property
    def is_good(self) -> bool:
        """Whether checks of pulling or discovery passed and none failed. Pushes and deletions end at the proxy."""
        outcomes = {check.outcome for check in self.checks if check.workflow in READS}
        return "passed" in outcomes and "failed" not in outcomes


@dataclass(frozen=True, slots=True)
class Mirror:
    """The running service, and the core that fills its bucket."""

    live: LiveService
    core: Core


@contextmanager
def running(folder: Path) -> Iterator[Mirror]:
    """Start the service with an empty bucket, an empty Redis, and an index that is built."""
    folders = [folder / name for name in ("valkey", "s3", "service")]
    for one in folders:
        one.mkdir()
    valkey_folder, s3_folder, service_folder = folders
    with (
        ValkeyServer(valkey_folder) as valkey,
        RcloneS3(s3_folder) as s3,
        LiveService(service_folder, valkey, s3, _PREFIX) as live,
    ):
        os.environ.update(s3.settings_env(_PREFIX))
        settings = Settings(
            data_dir=folder / "data",
            redis_url=valkey.url,
            s3_endpoint=s3.url,
            s3_bucket=s3.bucket,
            s3_region=REGION,
            s3_prefix=_PREFIX,
        )
        core = build(settings)
        try:
            mark_built(core.redis)
            yield Mirror(live, core)
        finally:
            core.close()


def seed(core: Core) -> Content:
    """Put what the read-only runs ask for into the bucket: an index with four tags, and a signature of it."""
    catalog, repository = SeededCatalog(core), "conformance/read-only"
    index = images.three_platforms("conformance")
    for tag in ("1", "1.0", "1.0.0", "latest"):
        catalog.hold(index, f"{repository}:{tag}")
    signature = images.artifact("application/vnd.example.signature", b"signed", subject=index)
    pushed = PushedContent(core)
    for digest, content in signature.all_blobs().items():
        pushed.store_blob(repository, digest, content)
    pushed.publish(repository, str(signature.digest), signature.body, signature.media_type)
    layer = next(iter(index.all_blobs()))
    return Content(repository, ("1", "1.0", "latest"), str(index.digest), str(layer))


def run_all(suites: Sequence[Suite], results: Path) -> Iterator[Run]:
    """Run each suite read-only, and with the content that it pushes."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as mirror:
        content = seed(mirror.core)
        with PushingProxy(mirror.live.url, PushedContent(mirror.core)) as proxy:
            for suite in suites:
                for way in ("read-only", "pushing"):
                    place = results / f"{suite.name}-{way}"
                    place.mkdir(parents=True, exist_ok=True)
                    for old in place.iterdir():
                        old.unlink()
                    environment = (
                        suite.read_only(mirror.live.url, content, place)
                        if way == "read-only"
                        else suite.pushing(proxy.url, place)
                    )
                    yield Run(suite, way, suite.run(environment, place))


def report(runs: Sequence[Run]) -> str:
    """Return the report in Markdown. Pushes and deletions of a pushing run are left out: they end at the proxy."""
    lines = [
        "| suite | commit | run | workflow | passed | failed | skipped |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        for workflow in WORKFLOWS:
            count = Counter(check.outcome for check in run.checks if check.workflow == workflow)
            is_off = not (count["passed"] or count["failed"])
            if count and (workflow in READS or is_off):
                figures = f"{count['passed']} | {count['failed']} | {count['skipped']}{' (off)' * is_off}"
                lines.append(f"| {run.suite.name} | `{run.suite.commit}` | {run.way} | {workflow} | {figures} |")
    return "\n".join(lines)


def details(runs: Sequence[Run]) -> Iterator[str]:
    """Yield each check of a read that failed or was skipped, with its reason. Leave out workflows that are off."""
    for run in runs:
        on = {check.workflow for check in run.checks if check.workflow in READS and check.outcome != "skipped"}
        for check in run.checks:
            if check.workflow in on and check.outcome != "passed":
                reason = check.reason.splitlines()[0] if check.reason else "no reason given"
                yield f"{check.outcome}: {run.suite.name}, {run.way}: {check.workflow}: {check.name}: {reason}"


def write_page(text: str) -> None:
    """Replace the report on the page of the documentation."""
    head, _, rest = _PAGE.read_text().partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    _PAGE.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/conformance/run", description=__doc__)
    names = [suite.name for suite in SUITES]
    parser.add_argument("--suite", action="append", choices=names, help="run this one only (default: both)")
    parser.add_argument("--repository", default=GITHUB, help="a clone of the spec, for a version without a Go module")
    parser.add_argument("--write", action="store_true", help=f"write the report into {_PAGE.relative_to(REPOSITORY)}")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "build" / "conformance", help="folder of full reports"
    )
    options = parser.parse_args()
    suites = [suite for suite in SUITES if suite.name in (options.suite or names)]
    try:
        for suite in suites:
            suite.build(options.repository)
        runs = list(run_all(suites, options.results.resolve()))
    except SuiteFailed as error:
        print(f"tests/conformance/run: {error}", file=sys.stderr)
        return 2
    text = report(runs)
    print(text, *details(runs), f"Full reports: {options.results}", sep="\n")
    if options.write:
        write_page(text)
    return 0 if all(run.is_good for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
