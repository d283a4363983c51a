"""Measure how ``/v2`` serves: ``python -m bench.serving``. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.programs import REPOSITORY, ProgramMissing, find, require, version
from bench.report import publish
from bench.servers import BUCKET_SERVERS, BucketServer
from bench.serving.load import Measurement, Row, ServingIsWrong, measure, rows
from bench.serving.report import Report
from bench.serving.servers import OURS, Distribution, ImageMirror, Measured, Mode, StoredImage, Zot
from tests.support.servers import ValkeyServer

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the benchmark creates its own folder in it
_RESULTS: Final = REPOSITORY / "build" / "bench"
_PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"
_COMMAND: Final = "python -m bench.serving"
_OTHER: Final = "other checkout"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    rounds: int
    seconds: float
    pulls: Sequence[int]
    pull_rounds: int
    seed: int
    s3: str
    checkout: Path | None
    only: Sequence[str]
    servers: Sequence[str]
    publish: str | None


def main() -> int:
    options = _parse_options(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it unwinds every with block, as Ctrl-C does
    try:
        report = _measure(options)
    except (ProgramMissing, ServingIsWrong, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _RESULTS.mkdir(parents=True, exist_ok=True)
    path = _RESULTS / f"serving-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path.with_suffix(".json").write_text(report.json())
    path.with_suffix(".md").write_text(report.markdown())
    print(report.markdown())
    print(f"Written to {path}.md and .json")
    if options.publish:
        publish(report.markdown(), _PAGE, options.publish, _COMMAND)
    return 0


def _parse_options(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog=_COMMAND, description="Measure how /v2 serves. See docs/benchmarks.md.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the requests; default: 3")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of requests; default: 2")
    parser.add_argument(
        "--pulls", type=int, action="append", help="pulls in a row; may be repeated; default: 500, 1000"
    )
    parser.add_argument("--pull-rounds", type=int, default=1, help="rounds that also have the pulls; default: 1")
    parser.add_argument("--quick", action="store_true", help="one round, one second each, 100 pulls: no result")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the random order")
    parser.add_argument("--s3", choices=list(BUCKET_SERVERS), default="versitygw", help="the S3 server")
    parser.add_argument("--checkout", type=Path, help="also measure the Image Mirror of another checkout")
    parser.add_argument("--only", action="append", default=[], help="only rows that contain this; may be repeated")
    parser.add_argument("--server", action="append", default=[], help="only servers whose name contains this")
    parser.add_argument("--publish", choices=["serving"], help="write the result to this place in docs/benchmarks.md")
    args = parser.parse_args(arguments)
    return Options(
        rounds=1 if args.quick else args.rounds,
        seconds=1.0 if args.quick else args.seconds,
        pulls=args.pulls or ([100] if args.quick else [500, 1000]),
        pull_rounds=args.pull_rounds,
        seed=args.seed,
        s3=args.s3,
        checkout=args.checkout.resolve() if args.checkout else None,
        only=args.only,
        servers=args.server,
        publish=args.publish,
    )


def _measure(options: Options) -> Report:
    load = os.getloadavg()[0]
    wanted = [row for row in rows(options.pulls) if _is_chosen(row.title, options.only)]
    with (
        _folder() as directory,
        BUCKET_SERVERS[options.s3](_new(directory / "s3")) as s3,
        _servers(options, directory, s3) as (found, images),
    ):
        servers = [server for server in found if _is_chosen(server.name, options.servers)]
        versions = [*dict.fromkeys(server.version for server in servers), f"S3: {version(require(options.s3))}"]
        medians = _rounds(options, wanted, servers, images, s3)
    order = [(row.title, server.name) for row in wanted for server in servers]
    return Report(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        load=load,
        versions=versions,
        seed=options.seed,
        rounds=options.rounds,
        pull_rounds=min(options.pull_rounds, options.rounds),
        rows=wanted,
        medians={key: medians[key] for key in order if key in medians},
    )


def _is_chosen(name: str, texts: Sequence[str]) -> bool:
    return not texts or any(text in name for text in texts)


@contextmanager
def _servers(
    options: Options, directory: Path, s3: BucketServer
) -> Iterator[tuple[Sequence[Measured], Sequence[StoredImage]]]:
    """Make all servers, and the images that each of them has."""
    checkouts = {OURS: REPOSITORY} | ({f"{OURS}, {_OTHER}": options.checkout} if options.checkout else {})
    with ValkeyServer(_new(directory / "valkey")) as valkey, ValkeyServer(_new(directory / "valkey-other")) as other:
        mirrors = [
            ImageMirror(name, checkout, directory / f"mirror-{number}", s3, store)
            for number, ((name, checkout), store) in enumerate(zip(checkouts.items(), (valkey, other), strict=False))
        ]
        _log("publishing the images")
        filled = [mirror.fill() for mirror in mirrors]
        images = filled[0]  # all are the same
        peers = [Distribution(cached, directory / "registry", s3, mirrors[0].prefix) for cached in (True, False)]
        servers: list[Measured] = [*mirrors, *peers]
        if find("zot"):
            _log("copying the images into zot")
            zot = Zot(directory / "zot", s3)
            zot.fill(images, peers[0])
            servers.append(zot)
        yield servers, images


def _rounds(
    options: Options,
    wanted: Sequence[Row],
    servers: Sequence[Measured],
    images: Sequence[StoredImage],
    s3: BucketServer,
) -> Mapping[tuple[str, str], Measurement]:
    """Measure every row of every server in each round, and return the medians. Raises ServingIsWrong."""
    order = random.Random(options.seed)  # noqa: S311 - repeatable on purpose
    measured: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for number in range(options.rounds):
        now = [row for row in wanted if not row.pulls or number < options.pull_rounds]
        modes = list(dict.fromkeys(row.mode for row in now))
        for mode, server in _shuffled(order, modes, servers):
            # Rows that are cold need a server that has just started.
            chosen = sorted((row for row in now if row.mode == mode), key=lambda row: not row.cold)
            with server.running(mode) as running:
                for row in chosen:
                    one = measure(row, running, images, s3.pid or 0, options.seconds)
                    measured[row.title, server.name].append(one)
                    _log(
                        f"round {number + 1}: {row.title}: {server.name}: {one.rate:.0f}/s, {one.cpu_ms:.2f} ms of CPU"
                    )
    return {key: Measurement.median(several) for key, several in measured.items()}


def _shuffled(order: random.Random, modes: list[Mode], servers: Sequence[Measured]) -> Iterator[tuple[Mode, Measured]]:
    """Yield every mode with every server. The servers of one mode are compared, so they follow one another."""
    for mode in order.sample(modes, len(modes)):
        for server in order.sample(servers, len(servers)):
            yield mode, server


@contextmanager
def _folder() -> Iterator[Path]:
    """Create a folder for the servers during the block, in memory if possible, so that no disk is measured."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2**30 else None
    with tempfile.TemporaryDirectory(prefix="mirror-bench-", dir=base) as name:
        yield Path(name)


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _log(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
