"""``python -m deploy.local``, which `make run` calls: check everything, then start everything."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.local import banner, embedded, environment, ports
from deploy.local.claim import claimed
from deploy.local.data_folder import DataFolder, write_private
from deploy.local.errors import CannotStart
from deploy.local.foreground import STDOUT, LineForwarder, supervise
from deploy.local.lines import LineRenderer
from deploy.local.processes import Process, guard, product
from deploy.local.supervision import write_configuration
from mirror.settings import InvalidSettings, Settings
from service.http.auth import admin_token

ProcessTable = Callable[[Settings], Sequence[Process]]


def main(table: ProcessTable = product) -> int:
    """The exit status: 0 after an orderly stop, 1 if something is in the way, 2 if a setting is wrong."""
    os.umask(0o077)
    try:
        run(load_settings(), table)
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the supervisor listened to it: nothing was started
        return 130
    return 0


def load_settings() -> Settings:
    """Read the settings, with an absolute data folder. Raises InvalidSettings or CannotStart."""
    settings = Settings.load(Settings.require_servable)
    if own := environment.of_embedded_servers(os.environ, settings.data_dir.absolute()):
        for name in own:
            os.environ.pop(name, None)
        settings = Settings.load(Settings.require_servable)
    return replace(settings, data_dir=settings.data_dir.absolute())


def run(settings: Settings, table: ProcessTable) -> None:
    """Start all and return when all have been stopped; raises CannotStart or InvalidSettings before the first start."""
    folder = DataFolder.open(settings.data_dir)
    renderer = LineRenderer(settings, sys.stdout)
    os.set_blocking(STDOUT, True)  # a pipe shared with others may not be, and lines would be lost
    output = LineForwarder(STDOUT, renderer.line)
    with claimed(folder, lambda event: output.write(renderer.event("launcher", event, "warning"))):
        with folder.in_use():
            told, configuration = prepare(folder, settings, table)
        output.write(_banner(settings, renderer))
        os.environ.clear()
        os.environ.update(told)  # supervisord starts its children with its own environment
        supervise(configuration, renderer)


def prepare(folder: DataFolder, settings: Settings, table: ProcessTable) -> tuple[dict[str, str], Path]:
    """Write all that the processes need into the folder. Return their environment and supervisord's configuration."""
    ports.require_free(settings.host, settings.port)
    valkey = embedded.valkey(folder, settings) if settings.redis_url is None else None
    s3 = embedded.s3(folder, settings) if settings.s3_bucket is None else None
    admin_token(settings)

    told = environment.for_processes(os.environ, settings, valkey, s3)
    write_private(folder.root / "env", environment.for_other_tools(told, settings) + environment.marker(folder))
    servers = [server.process for server in (valkey, s3) if server]
    configuration = write_configuration(folder, [guard(folder), *servers, *table(settings)])
    return environment.for_pipes(told), configuration


def _banner(settings: Settings, renderer: LineRenderer) -> bytes:
    if renderer.is_text:
        return f"{banner.text(settings)}\n".encode()
    return renderer.event("launcher", "Image Mirror starts", **banner.facts(settings))


if __name__ == "__main__":
    sys.exit(main())
