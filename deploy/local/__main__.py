"""``python -m deploy.local``, which `make run` calls: check everything, then start everything."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from deploy.local import embedded, environment, ports
from deploy.local.banner import banner
from deploy.local.data_folder import DataFolder, write_private
from deploy.local.errors import CannotStart
from deploy.local.foreground import STDOUT, LineForwarder, supervise
from deploy.local.processes import Process, product
from deploy.local.supervision import write_configuration
from mirror.settings import InvalidSettings, Settings
from service.admin_token import admin_token

ProcessTable = Callable[[Settings], Sequence[Process]]


def main(table: ProcessTable = product) -> int:
    """The exit status: 0 after an orderly stop, 1 if something is in the way, 2 if a setting is wrong."""
    os.umask(0o077)
    try:
        settings = Settings.load()
        settings.require_servable()
        run(replace(settings, data_dir=settings.data_dir.absolute()), table)
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the supervisor listened to it: nothing was started
        return 130
    return 0


def run(settings: Settings, table: ProcessTable) -> None:
    """Start all and return when all have been stopped; raises CannotStart or InvalidSettings before the first start."""
    folder = DataFolder.open(settings.data_dir)
    with folder.claimed():
        ports.require_free(settings.host, settings.port)
        valkey = embedded.valkey(folder) if settings.redis_url is None else None
        s3 = embedded.s3(folder) if settings.s3_bucket is None else None
        admin_token(settings)

        told = environment.for_processes(os.environ, settings, valkey, s3)
        write_private(folder.root / "env", environment.for_other_tools(told, settings))
        servers = [server.process for server in (valkey, s3) if server]
        configuration = write_configuration(folder, [*servers, *table(settings)])

        os.set_blocking(STDOUT, True)  # a pipe shared with others may not be, and lines would be lost
        LineForwarder(STDOUT).take("banner", f"{banner(settings)}\n".encode())
        os.environ.clear()
        os.environ.update(told)  # supervisord starts its children with its own environment
        supervise(configuration)


if __name__ == "__main__":
    sys.exit(main())
