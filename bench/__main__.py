"""Measure and report: ``python -m bench``. See docs/benchmarks.md."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import floor
from bench.image_mirror import ImageMirror
from bench.measurement import OURS, Rig
from bench.peers import PEER_NAMES, peers
from bench.programs import REPOSITORY, ProgramMissing, find, require, version
from bench.report import Report, publish
from bench.resources import warmed
from bench.rig import CopyIsWrong, running
from bench.rounds import Plan, run_rounds, summaries
from bench.servers import BUCKET_SERVERS, CAP
from bench.shapes import shapes
from bench.source import Loader
from bench.tool import CopyFailed, Tool

_RIGS: Final[tuple[Rig, ...]] = ("loopback", "capped")
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the benchmark creates its own folder in it
_SPACE: Final = 12_000_000_000
"""Free bytes that the servers' data needs: the source's images, and twice the largest copy."""
_TIMES: Final = 4
"""How often a blob's bytes are in memory during a push: parts, upload, parts of the blob, blob."""
_MB: Final = 1_000_000
_QUICK_ROUNDS, _ROUNDS = 3, 5
_QUICK_SECONDS: Final = 17 * 60.0
_QUICK_PEERS: Final = (OURS, "skopeo", "regsync")
_QUICK_WARM_ONLY: Final = ("regsync",)
_RESULTS: Final = REPOSITORY / "build" / "bench"
_PLACES: Final = ("main", "shared-base", "slower")
_PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    rigs: Sequence[Rig]
    shapes: Sequence[str]
    peers: Sequence[str]
    rounds: int
    seed: int
    scale: float
    data: Path | None
    checkout: Path
    budgets: Sequence[str]
    logs: Path | None
    warm_only: Sequence[str]
    seconds: float
    rate: int
    publish: str | None
    s3: str


def main() -> int:
    options = _parse_options(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # it unwinds every with block, as Ctrl-C does
    try:
        report = _measure(options)
    except (ProgramMissing, CopyFailed, CopyIsWrong) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _RESULTS.mkdir(parents=True, exist_ok=True)
    path = _RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path.with_suffix(".json").write_text(report.json())
    path.with_suffix(".md").write_text(report.markdown())
    print(report.markdown())
    print(f"Written to {path}.md and .json")
    if options.publish:
        publish(report.markdown(), _PAGE, options.publish)
    return 0


def _measure(options: Options) -> Report:
    with (
        _folders(options.data) as (directory, disk),
        running(directory, disk, options.logs, rate=options.rate, s3=options.s3) as bench,
    ):
        tools = _tools(options)
        _log("measuring the floor")
        lower_bound = floor.measure(options.rate)
        _log("making the source's images")
        loader, every = Loader(bench.source.url), shapes(options.scale)
        loaded = {name: loader.load(every[name]) for name in options.shapes}
        plan = Plan(options.rigs, loaded, tools, options.rounds, options.seed, options.warm_only, options.seconds)
        _log("warming memory")
        with warmed(_TIMES * max(shape.bytes_to_copy for shape in loaded.values())):
            measured = run_rounds(plan, bench, _log)
        return Report(
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            floor=lower_bound,
            versions=_versions(tools, options.s3),
            rounds=len(next(iter(measured.values()))),
            seed=options.seed,
            scale=options.scale,
            summaries=summaries(plan, measured, lower_bound),
            shapes=loaded,
        )


def _parse_options(arguments: Sequence[str]) -> Options:
    args = _parser().parse_args(arguments)
    chosen = tuple(filter(None, args.peers.split(","))) or (_QUICK_PEERS if args.quick else (OURS, *PEER_NAMES))
    return Options(
        rigs=args.rig or _RIGS,
        shapes=args.shape or list(shapes()),
        peers=chosen,
        rounds=args.rounds or (_QUICK_ROUNDS if args.quick else _ROUNDS),
        seed=args.seed,
        scale=args.scale,
        data=args.data,
        checkout=args.checkout.resolve(),
        budgets=args.budget or (),
        logs=args.logs,
        warm_only=_QUICK_WARM_ONLY if args.quick and not args.peers else (),
        seconds=_QUICK_SECONDS if args.quick else math.inf,
        rate=args.rate * _MB,
        publish=args.publish,
        s3=args.s3 or next((name for name in BUCKET_SERVERS if find(name)), next(iter(BUCKET_SERVERS))),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/run", description="Run the benchmark. See docs/benchmarks.md.")
    parser.add_argument("--shape", action="append", choices=list(shapes()), help="only this shape; may be repeated")
    parser.add_argument("--rig", action="append", choices=_RIGS, help="only this rig; may be repeated")
    parser.add_argument(
        "--peers", default="", help=f"some of {OURS},{','.join(PEER_NAMES)}; default: all that are installed"
    )
    parser.add_argument("--rounds", type=int, help=f"copies of each case; default: {_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, fewer peers: under 20 minutes")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the random order")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the sizes of layers, to try out the rig")
    parser.add_argument(
        "--data", type=Path, help="folder for the servers' data; default: memory if it has space, else TMPDIR"
    )
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="measure the Image Mirror of another checkout"
    )
    parser.add_argument(
        "--budget", action="append", help="also measure Image Mirror with this MIRROR_MEMORY_BUDGET; may be repeated"
    )
    parser.add_argument("--logs", type=Path, help="folder in which the tools' logs are kept, by bucket")
    parser.add_argument("--rate", type=int, default=CAP // _MB, help="MB/s of a paced connection")
    parser.add_argument("--publish", choices=_PLACES, help="write the result to this place in docs/benchmarks.md")
    parser.add_argument(
        "--s3", choices=list(BUCKET_SERVERS), help="the S3 server; default: the first that is installed"
    )
    return parser


@contextmanager
def _folders(wanted: Path | None) -> Iterator[tuple[Path, Path]]:
    """Create a folder for source and S3, and one on the disk, for the block.

    The first is in memory if that has space.
    """
    base = wanted or (_MEMORY if _has_space(_MEMORY) else Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix="mirror-bench-", dir=base) as directory,
        tempfile.TemporaryDirectory(prefix="mirror-bench-") as disk,
    ):
        _log(f"source and S3 are in {base}")
        yield Path(directory), Path(disk)


def _log(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _tools(options: Options) -> dict[str, Tool]:
    """Return the chosen tools that are installed, ours first.

    Raises ProgramMissing for an unknown name.
    """
    with_budgets = [ImageMirror(options.checkout, budget) for budget in options.budgets]
    every: list[Tool] = [ImageMirror(options.checkout), *with_budgets, *peers()]
    found = {tool.name: tool for tool in every}
    if unknown := set(options.peers) - {OURS, *PEER_NAMES}:
        raise ProgramMissing(f"no such tool: {', '.join(sorted(unknown))}")
    wanted = {*options.peers, *(tool.name for tool in with_budgets)}
    for name in options.peers:
        if name not in found:
            _log(f"NOT COMPARED WITH {name}: it is not installed (bench/programs)")
    return {name: tool for name, tool in found.items() if name in wanted}


def _versions(tools: dict[str, Tool], s3: str) -> list[str]:
    lines = [line for tool in tools.values() for line in tool.versions()]
    lines.append(f"S3: {version(require(s3))}")
    return list(dict.fromkeys(lines))


def _has_space(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _SPACE


if __name__ == "__main__":
    sys.exit(main())
