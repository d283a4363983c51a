"""``python -m bench``: measure, and say what was found. See docs/benchmarks.md."""

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
from bench.buckets import BUCKET_SERVERS
from bench.contender import Contender, CopyFailed
from bench.measurement import OURS, Rig
from bench.memory import warmed
from bench.ours import ImageMirror
from bench.peers import PEER_NAMES, peers
from bench.programs import REPOSITORY, Missing, find, require, version
from bench.report import Report, publish
from bench.rig import running
from bench.rounds import Programme, perform, summaries
from bench.servers import CAP
from bench.shapes import shapes
from bench.source import Loader
from bench.verification import CopyIsWrong

_RIGS: Final[tuple[Rig, ...]] = ("loopback", "capped")
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of one's own is made in it
_ROOM: Final = 12_000_000_000
"""Bytes: the source's images, and twice the largest copy."""
_TIMES: Final = 4
"""How often a copy's bytes are in memory while a registry pushes them: parts, upload, parts of the blob, blob."""
_MB: Final = 1_000_000
_QUICK_ROUNDS, _ROUNDS = 3, 5
_QUICK_SECONDS: Final = 17 * 60.0
_QUICK_PEERS: Final = (OURS, "skopeo", "regsync")
_QUICK_WARM_ONLY: Final = ("regsync",)
_RESULTS: Final = REPOSITORY / "build" / "bench"
_PLACES: Final = ("main", "shared-base", "slower")
_PAGE: Final = REPOSITORY / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

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
    wish = wished(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of every block's end, as Ctrl-C does
    try:
        report = measure(wish)
    except (Missing, CopyFailed, CopyIsWrong) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _RESULTS.mkdir(parents=True, exist_ok=True)
    path = _RESULTS / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    path.with_suffix(".json").write_text(report.json())
    path.with_suffix(".md").write_text(report.markdown())
    print(report.markdown())
    print(f"Written to {path}.md and .json")
    if wish.publish:
        publish(report.markdown(), _PAGE, wish.publish)
    return 0


def measure(wish: Wish) -> Report:
    with (
        folders(wish.data) as (directory, disk),
        running(directory, disk, wish.logs, rate=wish.rate, s3=wish.s3) as bench,
    ):
        contenders = _contenders(wish)
        tell("measuring the floor")
        least = floor.measure(wish.rate)
        tell("making the source's images")
        loader, every = Loader(bench.source.url), shapes(wish.scale)
        loaded = {name: loader.load(every[name]) for name in wish.shapes}
        programme = Programme(wish.rigs, loaded, contenders, wish.rounds, wish.seed, wish.warm_only, wish.seconds)
        tell("warming memory")
        with warmed(_TIMES * max(shape.bytes_to_copy for shape in loaded.values())):
            measured = perform(programme, bench, tell)
        return Report(
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            floor=least,
            versions=_versions(contenders, wish.s3),
            rounds=len(next(iter(measured.values()))),
            seed=wish.seed,
            scale=wish.scale,
            summaries=summaries(programme, measured, least),
            shapes=loaded,
        )


def wished(arguments: Sequence[str]) -> Wish:
    parser = argparse.ArgumentParser(prog="bench/run", description="The benchmark; see docs/benchmarks.md.")
    parser.add_argument("--shape", action="append", choices=list(shapes()), help="only this one; may be repeated")
    parser.add_argument("--rig", action="append", choices=_RIGS, help="only this one")
    parser.add_argument(
        "--peers", default="", help=f"of {OURS},{','.join(PEER_NAMES)}; all that are installed if not given"
    )
    parser.add_argument("--rounds", type=int, help=f"copies of each, {_ROUNDS} if not given")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, fewer peers: under 20 minutes")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000), help="of the order")
    parser.add_argument("--scale", type=float, default=1.0, help="layers so many times their size: to try the rig out")
    parser.add_argument("--data", type=Path, help="folder for the servers' data; memory if there is room, else TMPDIR")
    parser.add_argument(
        "--checkout", type=Path, default=REPOSITORY, help="measure the Image Mirror of another checkout"
    )
    parser.add_argument(
        "--budget", action="append", help="also measure Image Mirror with this MIRROR_MEMORY_BUDGET; may be repeated"
    )
    parser.add_argument("--logs", type=Path, help="folder in which the contenders' logs are kept, by bucket")
    parser.add_argument("--rate", type=int, default=CAP // _MB, help="MB/s of a paced connection")
    parser.add_argument("--publish", choices=_PLACES, help="put the result into this place in docs/benchmarks.md")
    parser.add_argument("--s3", choices=list(BUCKET_SERVERS), help="the S3 server; the first that is installed")
    asked = parser.parse_args(arguments)
    named = tuple(filter(None, asked.peers.split(","))) or (_QUICK_PEERS if asked.quick else (OURS, *PEER_NAMES))
    return Wish(
        rigs=asked.rig or _RIGS,
        shapes=asked.shape or list(shapes()),
        peers=named,
        rounds=asked.rounds or (_QUICK_ROUNDS if asked.quick else _ROUNDS),
        seed=asked.seed,
        scale=asked.scale,
        data=asked.data,
        checkout=asked.checkout.resolve(),
        budgets=asked.budget or (),
        logs=asked.logs,
        warm_only=_QUICK_WARM_ONLY if asked.quick and not asked.peers else (),
        seconds=_QUICK_SECONDS if asked.quick else math.inf,
        rate=asked.rate * _MB,
        publish=asked.publish,
        s3=asked.s3 or next((name for name in BUCKET_SERVERS if find(name)), next(iter(BUCKET_SERVERS))),
    )


@contextmanager
def folders(wanted: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder for source and S3, in memory if there is room, and one on the disk; both go with the block."""
    base = wanted or (_MEMORY if _has_room(_MEMORY) else Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix="mirror-bench-", dir=base) as directory,
        tempfile.TemporaryDirectory(prefix="mirror-bench-") as disk,
    ):
        tell(f"source and S3 in {base}")
        yield Path(directory), Path(disk)


def tell(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


def _contenders(wish: Wish) -> dict[str, Contender]:
    """Those that are asked for and installed, ours first; raises Missing for a name that nobody has."""
    others_of_ours = [ImageMirror(wish.checkout, budget) for budget in wish.budgets]
    everybody: list[Contender] = [ImageMirror(wish.checkout), *others_of_ours, *peers()]
    found = {contender.name: contender for contender in everybody}
    if unknown := set(wish.peers) - {OURS, *PEER_NAMES}:
        raise Missing(f"no such contender: {', '.join(sorted(unknown))}")
    wanted = {*wish.peers, *(contender.name for contender in others_of_ours)}
    for name in wish.peers:
        if name not in found:
            tell(f"NOT COMPARED WITH {name}: it is not installed (bench/programs)")
    return {name: contender for name, contender in found.items() if name in wanted}


def _versions(contenders: dict[str, Contender], s3: str) -> list[str]:
    lines = [line for contender in contenders.values() for line in contender.versions()]
    lines.append(f"S3: {version(require(s3))}")
    return list(dict.fromkeys(lines))


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM


if __name__ == "__main__":
    sys.exit(main())
