"""The script `mirror-image`: the shells that run it, and the example files that start it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from tests.integration.deploy.launch import environment
from tests.support.servers.process import REPOSITORY, program

CRON: Final = REPOSITORY / "deploy" / "cron"
SCRIPT: Final = CRON / "mirror-image"
SHELLS: Final = ("dash", "busybox")
_APPLETS: Final = ("sh", "awk", "cat", "date", "sleep", "tr")
"""All programs that the script needs, but curl."""

Role = Literal["script", "images", "token"]


def run(
    command: Sequence[str | Path], variables: Mapping[str, str], *, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command that starts the script, with *text* as its stdin."""
    program("curl")
    return subprocess.run(command, env={**environment(), **variables}, input=text, capture_output=True, text=True)


def in_shell(shell: str, folder: Path) -> tuple[list[str | Path], dict[str, str]]:
    """Return the command that runs the script in one of `SHELLS`, and its variables.

    BusyBox runs it without any other program but curl, as in the image that the CronJob uses. *folder* is new.
    """
    if shell != "busybox":
        return [program(shell), SCRIPT], {}
    folder.mkdir()
    for name in _APPLETS:
        (folder / name).symlink_to(program("busybox"))
    (folder / "curl").symlink_to(program("curl"))
    return [folder / "sh", SCRIPT], {"PATH": str(folder)}


@dataclass(frozen=True, slots=True)
class Start:
    """How an example file starts the script. *files* are the files that must exist, with what they hold."""

    command: Sequence[str]
    variables: Mapping[str, str]
    files: Mapping[str, Role]

    def run(
        self, root: Path, url: str, contents: Mapping[Role, str], variables: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run it with its files below *root*, *url* in the place of the mirror's URL, and further variables."""
        for path, role in self.files.items():
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_text(contents[role])
            (root / path[1:]).chmod(0o755 if role == "script" else 0o644)

        def moved(text: str) -> str:
            for path in self.files:
                text = text.replace(path, str(root / path[1:]))
            return text

        own = {name: moved(value) for name, value in self.variables.items()}
        return run([moved(part) for part in self.command], {**own, "MIRROR_URL": url, **variables})


def of_crontab() -> Start:
    """Return what cron starts. It passes its line to a shell."""
    lines = [line for line in (CRON / "crontab.example").read_text().splitlines() if line and line[0] != "#"]
    variables = dict(line.split("=", 1) for line in lines[:-1])
    entry = re.fullmatch(r"(?:[0-9*]+ ){5} *(?P<script>/\S+) -f (?P<images>/\S+) >/dev/null", lines[-1])
    assert entry
    command = lines[-1][entry.start("script") :]
    files: dict[str, Role] = {entry["script"]: "script", entry["images"]: "images"}
    return Start(["/bin/sh", "-c", command], variables, {**files, variables["MIRROR_TOKEN_FILE"]: "token"})


def of_unit() -> Start:
    """Return what systemd starts. It resolves the specifier for the folder of the unit's credentials."""
    settings = unit("mirror-images.service")["Service"]
    credentials = "/run/credentials/mirror-images.service"
    variables = dict(line.replace("%d", credentials).split("=", 1) for line in settings["Environment"])
    credential, _ = settings["LoadCredential"][0].split(":")
    command = shlex.split(settings["ExecStart"][0])
    files: dict[str, Role] = {command[0]: "script", command[command.index("-f") + 1]: "images"}
    return Start(command, variables, {**files, f"{credentials}/{credential}": "token"})


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """Return the settings of a systemd unit by section and name. A setting may be there more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (CRON / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def of_cron_job() -> Start:
    """Return what the CronJob starts. Its files are those of the Secret and the ConfigMaps that it mounts."""
    pod = cron_job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files: dict[str, Role] = {}
    for volume in pod["volumes"]:
        name = volume["secret"]["secretName"] if "secret" in volume else volume["configMap"]["name"]
        files |= {f"{mounted[volume['name']]}/{key}": role for key, role in _made()[name].items()}
    return Start([*container["command"], *container["args"]], variables, files)


def cron_job() -> Any:
    """Return the CronJob."""
    return _documents()["CronJob"]


def list_of_config_map() -> str:
    """Return the file of images in the ConfigMap next to the CronJob."""
    (text,) = _documents()["ConfigMap"]["data"].values()
    assert isinstance(text, str)
    return text


def _documents() -> dict[str, Any]:
    found = yaml.safe_load_all((CRON / "cronjob.yaml").read_text())
    return {document["kind"]: document for document in found}


def _made() -> dict[str, dict[str, Role]]:
    """Return the keys of each Secret and ConfigMap: those of the kubectl commands, and those of the manifest."""
    made: dict[str, dict[str, Role]] = {}
    text = (CRON / "cronjob.yaml").read_text()
    for kind, name, key in re.findall(r"kubectl create (secret generic|configmap) (\S+) --from-file=([\w-]+)", text):
        made[name] = {key: "token" if kind.startswith("secret") else "script"}
    listed = _documents()["ConfigMap"]
    made[listed["metadata"]["name"]] = dict.fromkeys(listed["data"], "images")
    return made
