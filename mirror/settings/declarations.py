"""The declaration of every setting, and `Settings`, the value that has them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from mirror.errors import TrustedRootUnavailable
from mirror.settings import parsers
from mirror.settings.environment import InvalidSettings, read_environment
from mirror.settings.parsers import ListingApi, Network, is_loopback
from mirror.signatures.attestation import SigningKey, signing_key
from mirror.signatures.policies import SignaturePolicies
from mirror.signatures.roots import TrustedRoots

T = TypeVar("T")
Requirement = Callable[["Settings"], object]
"""Raises InvalidSettings if a process cannot work with the settings."""
_DECLARATION: Final = "setting"
"""The key of a `Setting` in the metadata of its field."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a setting is read, and the last two cells of its row on the reference page.

    ``default`` and ``meaning`` are Markdown. The variable is the name of the field in capitals after ``MIRROR_``.
    """

    parse: Callable[[str], Any]
    default: str
    meaning: str


def _setting(
    parse: Callable[[str], T], default: str, meaning: str, *, shown: str | None = None, is_secret: bool = False
) -> T:
    """Declare a setting whose default is *default*, written as in the variable.

    The page shows *shown* instead, if it is given.
    """
    if shown is None:
        shown = f"`{default}`" if default else "none"
    metadata = {_DECLARATION: Setting(parse, shown, meaning)}
    return field(default_factory=lambda: parse(default), repr=not is_secret, metadata=metadata)


def _optional(parse: Callable[[str], T], meaning: str, *, shown: str = "none", is_secret: bool = False) -> T | None:
    """Declare a setting whose default is None, shown as *shown*."""
    return field(default=None, repr=not is_secret, metadata={_DECLARATION: Setting(parse, shown, meaning)})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a process, in the order of the reference page.

    ``public_url`` is empty if it must be set but is not: off loopback. `require_servable` refuses that.
    """

    host: str = _setting(parsers.host, "127.0.0.1", "The address that the API and `/v2` listen on.")
    port: int = _setting(parsers.number(1, 65535), "8080", "The port that they listen on.")
    tls_certificate: Path | None = _optional(
        parsers.pem_path,
        "A PEM file with the certificate of the service, followed by those of its intermediate CAs. If it is set, the "
        "service speaks HTTPS only. [Serve over TLS](../how-to/serve-over-tls.md) says how it is replaced.",
    )
    tls_key: Path | None = _optional(
        parsers.pem_path,
        "A PEM file with the private key of that certificate, without a password. Both must be set, or neither.",
    )
    public_url: str = _setting(
        parsers.url,
        "http://127.0.0.1:8080",
        "The URL under which clients reach the mirror. Links and `Location` are built from it, never from the header "
        "`Host`. Its host is the first part of the name of every image that is pulled. It must be set off loopback.",
        shown="`http://HOST:PORT` on loopback, with TLS `https://HOST:PORT`",
    )
    admin_token: str | None = _optional(
        parsers.token,
        "The token of the API: at least 16 printable ASCII characters, without blanks. **Use 32 random ones** "
        "(`openssl rand -hex 32`). [Wrong tokens are slowed down](api.md#access), but only a long token cannot be "
        "guessed. There is no default password. It must be set off loopback.",
        shown="created at the first start in `MIRROR_DATA_DIR/admin-token`, mode 0600",
        is_secret=True,
    )
    pull_token: tuple[str, ...] = _setting(
        parsers.tokens,
        "",
        "The tokens with which nodes pull, separated by commas, or by line breaks in a file. Each is written like the "
        "admin token, without commas, and differs from it. [They read `/v2` and nothing else](api.md#pull-tokens). To "
        "replace one without a pause, list the old and the new one until all nodes have the new one.",
        is_secret=True,
    )
    anonymous_pull: bool = _setting(
        parsers.boolean,
        "true",
        "Whether `docker pull` works without a login. "
        "[Pull with a login](../how-to/pull-from-nodes.md#with-a-login) says what nodes need otherwise.",
        shown="`true` on loopback, else `false`",
    )

    data_dir: Path = _setting(
        parsers.path, "./data", "The folder with the state of the embedded servers and the created admin token."
    )
    redis_url: str | None = _optional(
        parsers.redis_url,
        "A URL that begins with `redis://`, `rediss://` or `unix://`. If it is set, `make run` starts no Valkey of its "
        "own. This Redis needs persistence and `maxmemory-policy noeviction`.",
        shown="embedded",
        is_secret=True,
    )
    s3_bucket: str | None = _optional(
        parsers.bucket,
        "The bucket, which must exist. If it is set, `make run` starts no S3 server of its own.",
        shown="embedded",
    )
    s3_endpoint: str | None = _optional(
        parsers.url, "The URL of an S3 that is not AWS. Needs `MIRROR_S3_BUCKET`.", shown="AWS"
    )
    s3_region: str = _setting(str, "us-east-1", "The region of the bucket.")
    s3_prefix: str = _setting(
        parsers.prefix,
        "",
        "All keys begin with it. At most 400 bytes: letters, digits, `.`, `_` and `-`, in components separated by `/`.",
    )
    s3_public_endpoint: str | None = _optional(
        parsers.url, "The URL under which the pulling nodes reach the same S3.", shown="`MIRROR_S3_ENDPOINT`"
    )
    s3_sync_folder: Path | None = _optional(
        parsers.folder,
        "The folder on this machine in which the S3 server keeps its objects. Set it if that server responds before "
        "the objects are on the disk. Its file system is synced before a tag moves and before a job succeeds. "
        "`make run` sets it for the embedded S3. Leave it unset for any other.",
    )
    serve_redirect: Literal["auto", "true", "false"] = _setting(
        parsers.serve_redirect,
        "auto",
        "How blobs are served. `true` redirects (307) to a presigned S3 URL. `false` streams them through the mirror. "
        "`auto` redirects, unless the S3 is the embedded one without a public endpoint. Blobs are always streamed if "
        "[S3 would see the tokens](#redirects-and-tokens) of clients.",
    )

    dockerd_registry: str | None = _setting(
        parsers.optional_registry,
        "docker.io",
        "The registry of images that a client requests without a registry, as dockerd does of its `registry-mirrors`: "
        "`/v2/library/redis`. A repository of the mirror with that very name comes first. `none` turns this off.",
    )

    allowed_networks: tuple[Network, ...] = _setting(
        parsers.networks,
        "",
        "Networks such as `10.0.0.0/8`. The mirror connects to private, loopback and link-local addresses only inside "
        "them. The connected address is checked, not the name.",
    )
    insecure_registries: frozenset[str] = _setting(
        parsers.registries,
        "",
        "Registries that are asked over plain HTTP. This includes their token server on the same host, redirects to "
        "them, their use as the token server of another registry, and [URLs of foreign "
        "layers](formats.md#foreign-layers) there. Write them as in an image's name, with the port if there is one: "
        "`registry.corp:5000`. A host without a dot needs its port: `harbor:80`.",
    )
    registry_endpoints: Mapping[str, str] = _setting(
        parsers.by_registry(parsers.url),
        "",
        "`registry=url`: where the API of that registry really is, such as a proxy. Names and targets stay those of "
        "the registry. An `http://` URL allows plain HTTP for that host and port only.",
    )
    listing_apis: Mapping[str, ListingApi] = _setting(
        parsers.by_registry(parsers.listing_api),
        "",
        "`registry=vendor+url`: the API that lists the repositories of that registry, such as "
        "`registry.corp=gitlab+https://gitlab.corp`. The vendor is `docker-hub`, `github`, `gitlab`, `harbor` or "
        "`quay`. The API receives the credentials of the registry as "
        "[whole registries](selection.md#whole-registries) says. An `http://` URL allows plain HTTP for that host and "
        "port only.",
        shown="a built-in table",
    )
    token_realms: Mapping[str, frozenset[str]] = _setting(
        parsers.realms,
        "",
        "More pairs `registry=host` or `registry=host:port`: token servers that may receive the credentials of that "
        "registry. A registry may have several pairs.",
        shown="a built-in table",
    )
    docker_config: Path | None = _optional(
        parsers.file,
        "A Docker `config.json` with [credentials for sources](#credentials-for-sources). Its credential helpers run "
        "in workers only.",
    )
    sync_file: Path | None = _optional(
        parsers.path,
        "The path of a [`mirror.yaml`](mirror-yaml.md). The schedulers make the schedules what it says, within 5 s "
        "after each change. Workers read its [credentials](mirror-yaml.md#credentials). Set it for the service, the "
        "workers and the schedulers. The file may be missing when they start.",
    )
    registry_concurrency: Mapping[str, int] = _setting(
        parsers.by_registry(parsers.number(1, 1000)),
        "",
        "`registry=number`, from 1 to 1000: how many requests for manifests, how many for blobs, and how many for "
        "lists all workers together send to the registry at once. These limits start at 32, and one worker uses at "
        "most 16. They grow by one each second while all are used. They are halved after a 429, a 503 or a timeout.",
        shown="64 each",
    )

    signature_policies: SignaturePolicies = _setting(
        SignaturePolicies.parse,
        "",
        "Who must have signed the images of which sources: a JSON list. [Require "
        "signatures](../how-to/require-signatures.md#for-everybody) shows it. A job cannot weaken it. Set it for the "
        "service, the workers and the scheduler.",
    )
    trusted_roots: Path | None = _optional(
        parsers.folder,
        "The folder with [trusted roots](../how-to/require-signatures.md#a-sigstore-of-your-own) for signatures "
        "without a key, `<name>.json` each. Set it for the service, the workers and the "
        "scheduler.",
        shown="only Sigstore's public root",
    )

    attestation_key: SigningKey | None = _optional(
        signing_key,
        "A private key in PEM, on the curve P-256 or of Ed25519, without a password. If it is set, workers attach [a "
        "signed statement](../how-to/attest-what-you-mirror.md) to each image that they publish. "
        "`MIRROR_PUBLIC_URL` must be set then, because the statement names the image by it. Only workers need it.",
        is_secret=True,
    )
    attestation_verifier: str | None = _optional(
        parsers.uri,
        "The URI by which these statements name the mirror (`verifier.id`). Who checks a statement compares it.",
        shown="`MIRROR_PUBLIC_URL`",
    )

    workers: int = _setting(parsers.number(1, 64), "1", "The number of workers that `make run` starts: 1 to 64.")
    memory_budget: int = _setting(
        parsers.size,
        "256MiB",
        "The most memory that the buffers of one worker use: at least `32MiB`. Units are `B`, `KB`, `MB`, `GB`, `KiB`, "
        "`MiB` and `GiB`.",
    )
    heartbeat_path: Path | None = _optional(
        parsers.path_in_folder,
        "A file that a worker or the scheduler touches while its main loop runs, even while it waits for Redis or "
        "copies for a long time. If the file is older than 60 seconds, its process is stuck. The image sets it for its "
        "health check. Each process needs a file of its own.",
    )
    job_retention: int = _setting(
        parsers.retention,
        "30d",
        "How long a job can be read after its end. Then it is removed. Images stay. From `1h` to `3650d`, in hours "
        "(`h`) or days (`d`). `0` keeps jobs until they are deleted. Set it for the service and the scheduler, "
        "which accept jobs.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        parsers.one_of("debug", "info", "warning", "error"),
        "info",
        "The lowest level that every process logs: `debug`, `info`, `warning` or `error`. At `debug`, libraries log no "
        "more than at `info`.",
    )
    log_format: Literal["auto", "json", "text"] = _setting(
        parsers.one_of("auto", "json", "text"),
        "auto",
        "`json` writes one JSON object per line. `text` writes lines for people. `auto` writes text on a terminal, "
        "else JSON.",
    )

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Return the declaration of each setting by the name of its field."""
        return {each.name: each.metadata[_DECLARATION] for each in fields(cls)}

    @classmethod
    def load(cls, *requirements: Requirement) -> Self:
        """Read the environment of this process. Raises InvalidSettings with all problems.

        A requirement checks what the process needs in addition, such as `require_stores`.
        """
        values, problems = read_environment({name: setting.parse for name, setting in cls.declared().items()})
        loaded = cls(**values)
        own_url = _own_url(loaded.host, loaded.port, "https" if loaded.serves_tls else "http")
        loaded = replace(
            loaded,
            public_url=values.get("public_url", own_url),
            anonymous_pull=values.get("anonymous_pull", is_loopback(loaded.host)),
        )
        if loaded.s3_endpoint and not loaded.s3_bucket:
            problems.setdefault("MIRROR_S3_BUCKET", []).append("must be set when MIRROR_S3_ENDPOINT is")
        if loaded.attestation_key and "public_url" not in values:  # a signed name must not be a guess
            problems.setdefault("MIRROR_PUBLIC_URL", ["must be set when MIRROR_ATTESTATION_KEY is"])
        own = (cls.require_own_pull_tokens, cls.require_whole_tls, cls.require_trusted_roots)
        for requirement in (*own, *requirements):
            try:
                requirement(loaded)
            except InvalidSettings as missing:
                problems = {**missing.problems, **problems}  # a variable that is wrong is not reported as missing too
        if problems:
            raise InvalidSettings(problems)
        return loaded

    def require_servable(self) -> None:
        """Raise InvalidSettings if the API may not run with a default: off loopback, token and URL must be set."""
        if is_loopback(self.host):
            return
        needed = {"MIRROR_ADMIN_TOKEN": self.admin_token, "MIRROR_PUBLIC_URL": self.public_url}
        if missing := [name for name, value in needed.items() if not value]:
            raise InvalidSettings(
                {name: [f"must be set when MIRROR_HOST is {self.host}, not loopback"] for name in missing}
            )

    def require_own_pull_tokens(self) -> None:
        """Raise InvalidSettings if a pull token is the admin token, which every node would then have."""
        if self.admin_token in self.pull_token:
            raise InvalidSettings({"MIRROR_PULL_TOKEN": ["has the admin token in it; nodes need a token of their own"]})

    def require_whole_tls(self) -> None:
        """Raise InvalidSettings if only one of certificate and key is set."""
        given = {"MIRROR_TLS_CERTIFICATE": self.tls_certificate, "MIRROR_TLS_KEY": self.tls_key}
        missing = [name for name, path in given.items() if path is None]
        if len(missing) == 1:
            [other] = given.keys() - missing
            raise InvalidSettings({missing[0]: [f"must be set when {other} is"]})

    def require_trusted_roots(self) -> None:
        """Raise InvalidSettings if a policy for signatures names a trusted root that is not there."""
        roots = TrustedRoots(self.trusted_roots)
        for name in sorted(self.signature_policies.trusted_roots):
            try:
                roots.require(name)
            except TrustedRootUnavailable as error:
                raise InvalidSettings(
                    {"MIRROR_SIGNATURE_POLICIES": [f"needs the trusted root '{name}': {error.reason}"]}
                ) from None

    def require_stores(self) -> None:
        """Raise InvalidSettings if Redis or the bucket is not set. Only `make run` has embedded ones."""
        needed = {"MIRROR_REDIS_URL": self.redis_url, "MIRROR_S3_BUCKET": self.s3_bucket}
        if missing := [name for name, value in needed.items() if value is None]:
            raise InvalidSettings({name: ["must be set"] for name in missing})

    @property
    def serves_tls(self) -> bool:
        """Whether the service itself speaks TLS. A proxy in front of it may do so too."""
        return self.tls_certificate is not None

    @property
    def public_host(self) -> str:
        """``host[:port]``, as clients write it before a repository."""
        return urlsplit(self.public_url).netloc

    @property
    def redirects_blobs(self) -> bool:
        """Whether `/v2` redirects blob reads to a presigned URL. `make run` sets "false" for its embedded S3."""
        return self.serve_redirect != "false" and not self.s3_would_see_tokens

    @property
    def s3_would_see_tokens(self) -> bool:
        """Whether clients would send S3 the token with which they pull, if they were redirected there.

        Clients in Go do so if S3 has the name of the mirror, whatever the ports are, or a subdomain of that name
        (net/http, shouldCopyHeaderOnRedirect). S3 then refuses the request, because it is authorized twice. The hosts
        of AWS are never under the name of a mirror. The bucket may be the first part of a host (virtual-host
        addressing).
        """
        endpoint = self.s3_public_endpoint or self.s3_endpoint
        mirror, s3 = _host_of(self.public_url), _host_of(endpoint or "")
        return bool(mirror and s3) and any(
            host == mirror or host.endswith(f".{mirror}") for host in (s3, f"{self.s3_bucket}.{s3}")
        )


def _host_of(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _own_url(host: str, port: int, scheme: str) -> str:
    if not is_loopback(host):
        return ""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
