"""Memory that a process keeps after it freed its buffers, measured by the kernel in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.processes import ROOT

PROGRAM = """
import re, sys
from pathlib import Path
from worker.work_horse import configure_malloc

assert configure_malloc()

def kept():
    return int(re.search(r"^Pss:\\s+(\\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)[1]) // 1024

before = kept()
for _ in range(3):
    held = []
    for number in range(60):
        held.append((bytearray((3 + number % 14) * 2**20), bytearray(1000)))
    small = [pair[1] for pair in held]
    del held
    print(kept() - before)
"""


def test_freed_buffers_of_many_sizes_are_given_back() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert max(int(line) for line in ran.stdout.split()) < 16
