"""``python -m deploy.local.guard --parent PID FOLDER``: end what is left when the supervisor dies.

supervisord runs it first and stops it last. When the supervisor is killed with SIGKILL, the kernel sends this process
and all programs SIGTERM. The guard then gives the programs time to end and ends the embedded servers after them, so
that a worker can still hand its task over to Redis.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from deploy.local.data_folder import DataFolder
from deploy.local.leftovers import end_all
from deploy.local.tether import end_with_parent


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.guard")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before the kernel may send it
    end_with_parent()
    if os.getppid() == options.parent:
        signal.sigwait({signal.SIGTERM})
    if os.getppid() != options.parent:
        end_all(DataFolder(options.folder))


if __name__ == "__main__":
    main(sys.argv[1:])
