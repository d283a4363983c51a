"""``python -m tests.api.dying_process``: a process that dies at the write to S3 that commits a change of a tag.

Its arguments are ``before`` or ``after`` the write, and either a tag to delete, or the id of a task and its fence.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from mirror.copying.cancellation import Cancellation
from mirror.oci.local_image import LocalImage
from mirror.queue import NORMAL
from mirror.settings import Settings
from mirror.storage.links import LinkStore
from mirror.wiring import build


def die_at(name: str, *, after: bool) -> None:
    """Replace the method *name* of `LinkStore` by one that ends this process with SIGKILL."""
    write = getattr(LinkStore, name)

    def dying(*args: Any, **options: Any) -> None:
        if after:
            write(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(LinkStore, name, dying)


def main(when: str, what: str, *fence: str) -> None:
    core = build(Settings.load(Settings.require_stores))
    if fence:
        die_at("set_current", after=when == "after")
        [claimed] = core.claimer.claim([(what, int(fence[0]), NORMAL)], Cancellation())
        core.runner.run(claimed)
    else:
        die_at("delete_tag", after=when == "after")
        core.deleter.delete(LocalImage.parse(what), allowed=lambda _: True)


if __name__ == "__main__":
    main(*sys.argv[1:])
