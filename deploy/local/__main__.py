"""Check everything, then start everything: ``python -m deploy.local``.

`make run` calls it.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.local import embedded, environment, preflight
from deploy.local.data_folder import CannotStart, DataFolder, write_private
from deploy.local.orphans import single_instance
from deploy.local.output import STDOUT, LineForwarder, LineRenderer
from deploy.local.processes import Process, guard, product
from deploy.local.supervisord import supervise, write_configuration
from mirror.settings import InvalidSettings, Settings
from service.http.auth import admin_token
from service.http.tls import ServerCertificate

ProcessTable = Callable[[Settings], Sequence[Process]]


def main(table: ProcessTable = product) -> int:
    """Run the product, and return the exit status.

    It is 0 after an orderly stop, 1 if the product cannot start, 2 if a setting is wrong.
    """
    os.umask(0o077)
    try:
        _run(_load_settings(), table)
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # it came before the supervisor handled signals, so nothing was started
        return 130
    return 0


def _load_settings() -> Settings:
    """Read the settings, with an absolute data folder.

    Raises InvalidSettings or CannotStart.
    """
    settings = Settings.load(Settings.require_servable)
    if own := environment.variables_of_own_servers(os.environ, settings.data_dir.absolute()):
        for name in own:
            os.environ.pop(name, None)
        settings = Settings.load(Settings.require_servable)
    return replace(settings, data_dir=settings.data_dir.absolute())


def _run(settings: Settings, table: ProcessTable) -> None:
    """Start all processes and return after all have stopped.

    Raises CannotStart or InvalidSettings before it starts the first process.
    """
    folder = DataFolder.open(settings.data_dir)
    renderer = LineRenderer(settings, sys.stdout)
    os.set_blocking(STDOUT, True)  # a pipe that other programs share may be non-blocking, and would lose lines
    output = LineForwarder(STDOUT, renderer.render_line)
    with single_instance(folder, lambda event: output.write(renderer.render_event("launcher", event, "warning"))):
        with folder.explained_errors():
            variables, configuration = _prepare(folder, settings, table)
        output.write(_banner(settings, renderer))
        os.environ.clear()
        os.environ.update(variables)  # supervisord starts its children with its own environment
        supervise(configuration, renderer)


def _prepare(folder: DataFolder, settings: Settings, table: ProcessTable) -> tuple[dict[str, str], Path]:
    """Write all that the processes need into the folder.

    Return their environment and supervisord's configuration.
    """
    preflight.require_free_port(settings.host, settings.port)
    valkey = embedded.valkey(folder, settings) if settings.redis_url is None else None
    s3 = embedded.s3(folder, settings) if settings.s3_bucket is None else None
    admin_token(settings)
    ServerCertificate.of(settings)  # refuses files that cannot be used

    variables = environment.for_processes(os.environ, settings, valkey, s3)
    write_private(folder.root / "env", environment.for_other_tools(variables, settings) + environment.marker(folder))
    servers = [server.process for server in (valkey, s3) if server]
    configuration = write_configuration(folder, [guard(folder), *servers, *table(settings)])
    return environment.with_json_logs(variables), configuration


def _banner(settings: Settings, renderer: LineRenderer) -> bytes:
    """Return what the user of `make run` reads first.

    It names the admin token's place and never shows the token.
    """
    if renderer.is_text:
        return f"{_banner_text(settings)}\n".encode()
    facts = {
        "url": settings.public_url,
        "admin_token": "MIRROR_ADMIN_TOKEN" if settings.admin_token else str(settings.data_dir / "admin-token"),
        "data_dir": str(settings.data_dir),
        "env": str(settings.data_dir / "env"),
    }
    return renderer.render_event("launcher", "Image Mirror starts", **facts)


def _banner_text(settings: Settings) -> str:
    token = settings.data_dir / "admin-token"
    if settings.admin_token:
        place, shell = "the value of MIRROR_ADMIN_TOKEN", "$MIRROR_ADMIN_TOKEN"
    else:
        place, shell = str(token), f"$(cat {shlex.quote(str(token))})"
    return f"""
  Image Mirror

  URL           {settings.public_url}
  Admin token   {place}
  Data folder   {settings.data_dir}
  Other tools   . {shlex.quote(str(settings.data_dir / "env"))}

  Mirror your first image:
    curl -H "Authorization: Bearer {shell}" -H 'Content-Type: application/json' \\
      -d '{{"source": "docker.io/library/alpine:3.20"}}' {settings.public_url}/v1/jobs

  Starting. Ctrl-C stops everything.
"""


if __name__ == "__main__":
    sys.exit(main())
