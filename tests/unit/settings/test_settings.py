"""What is read from the environment, and what is refused."""

from __future__ import annotations

import ipaddress
from dataclasses import fields
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat

from mirror.settings import InvalidSettings, ListingApi, Settings
from mirror.signatures.policies import SignaturePolicies
from tests.unit.settings.loading import COSIGN_KEY, P256, TOKEN, load, pem, problems, public_pem


def test_without_variables_every_setting_has_its_default() -> None:
    loaded = Settings.load()
    assert loaded == Settings()
    assert {f.name: getattr(loaded, f.name) for f in fields(Settings)} == {
        "port": 8080,
        "host": "127.0.0.1",
        "tls_certificate": None,
        "tls_key": None,
        "public_url": "http://127.0.0.1:8080",
        "data_dir": Path("data"),
        "redis_url": None,
        "s3_endpoint": None,
        "s3_bucket": None,
        "s3_region": "us-east-1",
        "s3_prefix": "",
        "s3_public_endpoint": None,
        "s3_sync_folder": None,
        "serve_redirect": "auto",
        "dockerd_registry": "docker.io",
        "admin_token": None,
        "pull_token": (),
        "anonymous_pull": True,
        "insecure_registries": frozenset(),
        "allowed_networks": (),
        "registry_endpoints": {},
        "listing_apis": {},
        "registry_concurrency": {},
        "token_realms": {},
        "docker_config": None,
        "sync_file": None,
        "signature_policies": SignaturePolicies(),
        "trusted_roots": None,
        "attestation_key": None,
        "attestation_verifier": None,
        "heartbeat_path": None,
        "workers": 1,
        "memory_budget": 256 * 1024 * 1024,
        "log_level": "info",
        "log_format": "auto",
        "job_retention": 30 * 24 * 3600,
    }


def test_everything_that_is_set_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    loaded = load(
        monkeypatch,
        PORT="80",
        HOST="0.0.0.0",
        TLS_CERTIFICATE="/run/tls/tls.crt",
        TLS_KEY="/run/tls/tls.key",
        PUBLIC_URL="https://mirror.corp/",
        DATA_DIR="/var/lib/mirror",
        REDIS_URL="rediss://:secret@redis.corp:6380/2",
        S3_ENDPOINT="http://s3.corp:9000",
        S3_BUCKET="images",
        S3_REGION="eu-central-1",
        S3_PREFIX="/team/mirror/",
        S3_PUBLIC_ENDPOINT="https://s3.public",
        S3_SYNC_FOLDER=str(tmp_path),
        SERVE_REDIRECT="TRUE",
        ADMIN_TOKEN=TOKEN,
        PULL_TOKEN="token-of-cluster-1, token-of-cluster-2,",
        ANONYMOUS_PULL="yes",
        INSECURE_REGISTRIES="harbor:80, 127.0.0.1:5001,",
        ALLOWED_NETWORKS="10.0.0.0/8, fd00::/8,192.168.1.7",
        REGISTRY_ENDPOINTS="docker.io=https://hub-proxy.corp,index.docker.io:5000 = http://other",
        LISTING_APIS="registry.corp=gitlab+https://gitlab.corp/, docker.io = docker-hub+http://hub-proxy.corp:8081/hub",
        REGISTRY_CONCURRENCY="index.docker.io=8, registry.corp = 1000",
        TOKEN_REALMS="harbor.corp=sso.corp,harbor.corp=SSO2.corp",
        DOCKER_CONFIG=str(config),
        SYNC_FILE="/etc/mirror/mirror.yaml",
        ATTESTATION_VERIFIER="urn:corp:mirror",
        WORKERS="4",
        MEMORY_BUDGET="1 GiB",
        HEARTBEAT_PATH=str(config.with_name("heartbeat")),
        LOG_LEVEL="Warning",
        LOG_FORMAT="json",
        JOB_RETENTION="36h",
    )
    assert loaded == Settings(
        port=80,
        host="0.0.0.0",
        tls_certificate=Path("/run/tls/tls.crt"),
        tls_key=Path("/run/tls/tls.key"),
        public_url="https://mirror.corp",
        data_dir=Path("/var/lib/mirror"),
        redis_url="rediss://:secret@redis.corp:6380/2",
        s3_endpoint="http://s3.corp:9000",
        s3_bucket="images",
        s3_region="eu-central-1",
        s3_prefix="team/mirror",
        s3_public_endpoint="https://s3.public",
        s3_sync_folder=tmp_path,
        serve_redirect="true",
        admin_token=TOKEN,
        pull_token=("token-of-cluster-1", "token-of-cluster-2"),
        anonymous_pull=True,
        insecure_registries=frozenset({"harbor:80", "127.0.0.1:5001"}),
        allowed_networks=(
            ipaddress.ip_network("10.0.0.0/8"),
            ipaddress.ip_network("fd00::/8"),
            ipaddress.ip_network("192.168.1.7/32"),
        ),
        registry_endpoints={"docker.io": "https://hub-proxy.corp", "index.docker.io:5000": "http://other"},
        listing_apis={
            "registry.corp": ListingApi("gitlab", "https://gitlab.corp"),
            "docker.io": ListingApi("docker-hub", "http://hub-proxy.corp:8081/hub"),
        },
        registry_concurrency={"docker.io": 8, "registry.corp": 1000},
        token_realms={"harbor.corp": frozenset({"sso.corp", "sso2.corp"})},
        docker_config=config,
        sync_file=Path("/etc/mirror/mirror.yaml"),
        attestation_verifier="urn:corp:mirror",
        log_level="warning",
        log_format="json",
        workers=4,
        memory_budget=2**30,
        heartbeat_path=config.with_name("heartbeat"),
        job_retention=36 * 3600,
    )


def test_a_retention_of_zero_keeps_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_JOB_RETENTION", "0")
    assert Settings.load().job_retention == 0


def test_every_field_is_read_from_the_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only free text accepts a value that fits no other kind: a path, and the region.

    A setting of which another one is missing is a problem, too.
    """
    free_text = {"data_dir", "s3_region", "tls_certificate", "tls_key", "sync_file"}
    refused: set[str] = set()
    for field in fields(Settings):
        with monkeypatch.context() as patch:
            patch.setenv(f"MIRROR_{field.name.upper()}", "\x01 not a value of any kind =\x01")
            try:
                Settings.load()
            except InvalidSettings as error:
                refused |= error.problems.keys() & {f"MIRROR_{field.name.upper()}"}
    assert refused == {f"MIRROR_{f.name.upper()}" for f in fields(Settings) if f.name not in free_text}


@pytest.mark.parametrize("empty", ["", "   "])
def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    assert load(monkeypatch, **{field.name.upper(): empty for field in fields(Settings)}) == Settings()


def test_every_setting_can_be_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret, port = tmp_path / "token", tmp_path / "port"
    secret.write_text(f"{TOKEN}\n")
    port.write_text("81\n")
    loaded = load(monkeypatch, ADMIN_TOKEN_FILE=str(secret), PORT_FILE=str(port), PORT="80")
    assert loaded.admin_token == TOKEN
    assert loaded.port == 81, "the file wins"


def test_a_file_of_pull_tokens_has_one_on_each_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pull-token"
    file.write_text("token-of-cluster-1\r\n\ntoken-of-cluster-2,token-of-cluster-3\ntoken-of-cluster-1\n")
    tokens = ("token-of-cluster-1", "token-of-cluster-2", "token-of-cluster-3")
    assert load(monkeypatch, PULL_TOKEN_FILE=str(file)).pull_token == tokens


def test_the_admin_token_cannot_be_a_pull_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, ADMIN_TOKEN=TOKEN, PULL_TOKEN=f"token-of-cluster-1,{TOKEN}", PORT="0")
    assert found["MIRROR_PULL_TOKEN"] == ["has the admin token in it; nodes need a token of their own"]
    assert found.keys() == {"MIRROR_PULL_TOKEN", "MIRROR_PORT"}


def test_a_file_that_cannot_be_read_is_a_problem_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    found = problems(
        monkeypatch,
        ADMIN_TOKEN_FILE=str(tmp_path / "missing"),
        PORT_FILE=str(tmp_path),
        HOST_FILE=str(binary),
        REDIS_URL_FILE=str(binary / "below a file"),
        S3_BUCKET_FILE="x" * 5000,
    )
    assert found == {
        f"MIRROR_{name}": [f"MIRROR_{name}_FILE does not name a readable file"]
        for name in ("ADMIN_TOKEN", "PORT", "HOST", "REDIS_URL", "S3_BUCKET")
    }


def test_all_problems_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSettings) as refused:
        load(monkeypatch, PORT="0", WORKERS="many", S3_ENDPOINT="s3.corp", MEMORY_BUDGET="1MiB", HOST_FILE="/missing")
    text = str(refused.value)
    assert text.splitlines() == [
        "these settings cannot be used:",
        "  MIRROR_HOST: MIRROR_HOST_FILE does not name a readable file",
        "  MIRROR_MEMORY_BUDGET: must be at least 32MiB",
        "  MIRROR_PORT: must be a whole number from 1 to 65535",
        "  MIRROR_S3_ENDPOINT: must be a URL that starts with http:// or https://",
        "  MIRROR_WORKERS: must be a whole number from 1 to 64",
    ]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PORT", "65536", "whole number from 1 to 65535"),
        ("PORT", "80.5", "whole number"),
        ("PORT", "٣", "whole number"),
        ("PORT", "9" * 5000, "whole number"),
        ("HOST", "a b", "host name or an IP address"),
        ("PUBLIC_URL", "mirror.corp", "starts with http:// or https://"),
        ("PUBLIC_URL", "ftp://mirror.corp", "starts with http:// or https://"),
        ("PUBLIC_URL", "http://", "a host"),
        ("PUBLIC_URL", "http://[::1", "starts with http:// or https://"),
        ("PUBLIC_URL", "http://mirror.corp:99999", "starts with http:// or https://"),
        ("PUBLIC_URL", "http://mirror.corp?x=1", "without user, password, query"),
        ("S3_ENDPOINT", "https://key:secret@s3.corp", "without user, password"),
        ("REDIS_URL", "http://redis", "starts with redis:// or rediss:// or unix://"),
        ("S3_BUCKET", "Images", "S3 bucket name"),
        ("S3_BUCKET", "ab", "S3 bucket name"),
        ("S3_PREFIX", "a" * 401, "at most 400 bytes"),
        ("S3_PREFIX", "a//b", "components separated by '/'"),
        ("S3_PREFIX", "a/../b", "components separated by '/'"),
        ("S3_PREFIX", "ä", "letters, digits"),
        ("SERVE_REDIRECT", "maybe", "true or false"),
        ("ADMIN_TOKEN", "short", "at least 16"),
        ("ADMIN_TOKEN", "with blanks in the middle", "no blanks"),
        ("PULL_TOKEN", "token-of-cluster-1,short", "entry 2 must have at least 16"),
        ("PULL_TOKEN", "with blanks in the middle", "entry 1 must have"),
        ("ANONYMOUS_PULL", "2", "true or false"),
        ("TLS_KEY", "-----BEGIN PRIVATE KEY-----", "must be the path of a PEM file, not its content"),
        (
            "INSECURE_REGISTRIES",
            "x.com,harbor",
            "entry 2 is not a registry's host[:port]: a host needs a dot or a port",
        ),
        ("INSECURE_REGISTRIES", "x.com:5000/team", "has no path"),
        ("INSECURE_REGISTRIES", "http://x.com", "URL scheme"),
        ("INSECURE_REGISTRIES", "x.com:0", "port is not a number"),
        ("INSECURE_REGISTRIES", "[::1]:5000", "IPv6"),
        ("ALLOWED_NETWORKS", "10.0.0.0/8,10.0.0.1/8", "entry 2 is not a network"),
        ("ALLOWED_NETWORKS", "corp.example", "entry 1 is not a network"),
        ("REGISTRY_CONCURRENCY", "8", "entry 1 is not written 'registry=value'"),
        ("REGISTRY_CONCURRENCY", "docker.io=0", "must be a whole number from 1 to 1000"),
        ("REGISTRY_CONCURRENCY", "docker.io=1001", "must be a whole number from 1 to 1000"),
        ("REGISTRY_CONCURRENCY", "docker.io=many", "must be a whole number from 1 to 1000"),
        ("REGISTRY_CONCURRENCY", "harbor=8", "entry 1 is not a registry's host"),
        ("REGISTRY_CONCURRENCY", "docker.io=8,index.docker.io=9", "names a registry twice"),
        ("REGISTRY_ENDPOINTS", "https://proxy.corp", "entry 1 is not written 'registry=value'"),
        ("REGISTRY_ENDPOINTS", "docker.io=", "entry 1 is not written 'registry=value'"),
        ("REGISTRY_ENDPOINTS", "docker.io=proxy.corp", "starts with http:// or https://"),
        ("REGISTRY_ENDPOINTS", "docker.io=https://a,index.docker.io=https://b", "names a registry twice"),
        ("TOKEN_REALMS", "harbor.corp=https://sso.corp", "host name or an IP address"),
        ("ATTESTATION_KEY", "secret", "must be a private key in PEM; MIRROR_ATTESTATION_KEY_FILE names a file"),
        ("ATTESTATION_KEY", pem(P256)[:-40], "must be a private key in PEM"),
        ("ATTESTATION_KEY", pem(P256).replace("M", "N", 3), "must be a private key in PEM"),
        ("ATTESTATION_KEY", public_pem(P256), "must be a private key in PEM"),
        ("ATTESTATION_KEY", pem(P256, password=b"p4ssw0rd"), "is encrypted; `openssl pkey"),
        ("ATTESTATION_KEY", pem(P256, PrivateFormat.TraditionalOpenSSL, password=b"p4ssw0rd"), "is encrypted"),
        ("ATTESTATION_KEY", COSIGN_KEY, "not a key that cosign made"),
        ("ATTESTATION_KEY", pem(ec.generate_private_key(ec.SECP384R1())), "on the curve P-256, or of Ed25519"),
        ("ATTESTATION_KEY", pem(rsa.generate_private_key(65537, 2048)), "on the curve P-256, or of Ed25519"),
        ("ATTESTATION_VERIFIER", "mirror.corp", "an absolute URI"),
        ("ATTESTATION_VERIFIER", "https://mirror.corp/#mirror", "an absolute URI"),
        ("ATTESTATION_VERIFIER", "https://mirror.corp/a b", "an absolute URI"),
        ("ATTESTATION_VERIFIER", "x:" + "a" * 501, "an absolute URI"),
        ("DOCKER_CONFIG", "/missing/config.json", "file that exists"),
        ("WORKERS", "0", "whole number from 1 to 64"),
        ("MEMORY_BUDGET", "lots", "a size such as 256MiB"),
        ("MEMORY_BUDGET", "1TB", "a size such as 256MiB"),
        ("MEMORY_BUDGET", "9" * 5000, "a size such as 256MiB"),
        ("MEMORY_BUDGET", "31MiB", "at least 32MiB"),
        ("JOB_RETENTION", "30", "from 1h to 3650d"),
        ("JOB_RETENTION", "0d", "from 1h to 3650d"),
        ("JOB_RETENTION", "-1d", "from 1h to 3650d"),
        ("JOB_RETENTION", "9" * 5000 + "d", "from 1h to 3650d"),
        ("JOB_RETENTION", "3651d", "from 1h to 3650d"),
    ],
)
def test_a_refused_value_says_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    found = problems(monkeypatch, **{name: value})
    assert problem in found[f"MIRROR_{name}"][0]


def test_an_endpoint_needs_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, S3_ENDPOINT="http://s3.corp") == {
        "MIRROR_S3_BUCKET": ["must be set when MIRROR_S3_ENDPOINT is"]
    }


@pytest.mark.parametrize(("prefix", "read"), [("/", ""), ("a/b", "a/b"), ("a" * 400, "a" * 400)])
def test_a_prefix_has_no_slash_at_its_ends(monkeypatch: pytest.MonkeyPatch, prefix: str, read: str) -> None:
    assert load(monkeypatch, S3_PREFIX=prefix).s3_prefix == read


@pytest.mark.parametrize(
    ("text", "size"), [("33554432", 2**25), ("256MiB", 2**28), ("256mib", 2**28), ("1GB", 10**9), ("64 MB", 64 * 10**6)]
)
def test_a_size_has_a_unit_or_is_in_bytes(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    assert load(monkeypatch, MEMORY_BUDGET=text).memory_budget == size


@pytest.mark.parametrize("name", ["index.docker.io", "DOCKER.IO", "docker.io:443"])
def test_a_registry_is_written_as_in_a_reference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert load(monkeypatch, INSECURE_REGISTRIES=name).insecure_registries == {"docker.io"}


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "verbose"), ("LOG_LEVEL", "20"), ("LOG_FORMAT", "xml")])
def test_an_unknown_level_or_format_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert problems(monkeypatch, **{name: value}).keys() == {f"MIRROR_{name}"}


def test_a_tilde_in_the_data_folder_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(monkeypatch, DATA_DIR="~/mirror").data_dir == Path("/home/somebody/mirror")


@pytest.mark.parametrize("name", ["DATA_DIR", "DOCKER_CONFIG", "S3_SYNC_FOLDER"])
def test_a_tilde_of_an_unknown_user_is_a_problem(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = problems(monkeypatch, **{name: "~nobody-has-this-name/mirror"})
    assert found == {f"MIRROR_{name}": ["names the home folder of an unknown user"]}
