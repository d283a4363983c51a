"""A Redis that refuses to work and one that cannot be reached raise one error, each with its reason."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis as vendor
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from structlog.testing import capture_logs

from mirror.errors import RedisUnavailable
from mirror.queue import NORMAL, TaskQueue
from mirror.redis import keys
from mirror.redis.client import Redis, open_client
from mirror.redis.failures import address_of, translated
from tests.support.servers import ValkeyServer
from tests.support.servers.process import free_port


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of the test's own, whose configuration it may change."""
    with ValkeyServer(tmp_path) as server:
        yield server


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[Any]:
    with vendor.Redis.from_url(valkey.url) as client:
        yield client


def reason(ask: Callable[[], object]) -> str:
    with pytest.raises(RedisUnavailable) as caught:
        ask()
    assert caught.value.__cause__ is None
    return caught.value.message.removeprefix("Redis, which keeps the jobs, ")


def writes(client: Redis, queue: TaskQueue) -> list[Callable[[], object]]:
    """Return one of each kind of write: a command, a pipeline, a script, many runs, a transaction of RQ."""
    script = client.script("return redis.call('SET', KEYS[1], ARGV[1])")
    return [
        lambda: client.call("SET", "mirror:x", 1),
        lambda: client.calls([["GET", "mirror:x"], ["SET", "mirror:x", 1]]),
        lambda: script(["mirror:x"], [1]),
        lambda: script.many([(["mirror:x"], [1]), (["mirror:y"], [1])]),
        lambda: transaction(queue),
    ]


def transaction(queue: TaskQueue) -> None:
    with translated():
        normal = queue.lanes[NORMAL]
        normal.enqueue_many([normal.prepare_data("worker.tasks.mirror_image", args=("task_1", 0), job_id="task_1-0")])


@pytest.mark.parametrize(
    ("change", "restore", "expected"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "its memory is full (maxmemory)"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "it is a read-only replica"),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "it has fewer replicas than it must have (min-replicas-to-write)",
        ),
    ],
)
def test_every_kind_of_write_says_why_redis_refuses_it_and_works_again_later(
    valkey: ValkeyServer, admin: Any, change: tuple[str, ...], restore: tuple[str, ...], expected: str
) -> None:
    client, raw = Redis.connect(valkey.url), open_client(valkey.url, retries=2, decode_responses=False)
    queue = TaskQueue(raw)
    admin.execute_command(*change)
    for write in writes(client, queue):
        assert reason(write) == f"refuses writes: {expected}"
    assert client.call("GET", "mirror:x") is None
    admin.execute_command(*restore)
    for write in writes(client, queue):
        write()
    assert queue.take(10) == [("task_1", 0, NORMAL)]
    client.close()
    raw.close()


def test_a_redis_whose_primary_is_away_says_so_even_to_reads(valkey: ValkeyServer, admin: Any) -> None:
    client = Redis.connect(valkey.url)
    admin.config_set("replica-serve-stale-data", "no")
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert reason(lambda: client.call("GET", "x")) == "does not answer: it is a replica that has lost its primary"
    client.close()


def test_a_redis_that_runs_a_long_script_is_busy(valkey: ValkeyServer, admin: Any) -> None:
    admin.config_set("busy-reply-threshold", 1)
    client, other = Redis.connect(valkey.url), Redis.connect(valkey.url)
    assert client.call("PING")

    def spin() -> None:
        with pytest.raises(ResponseError, match="killed"):
            other.call("EVAL", "while true do end", 0)

    spinning = threading.Thread(target=spin)
    spinning.start()
    found = ""
    while not found:  # until the script has run for the threshold of a millisecond
        with closing(vendor.Redis.from_url(valkey.url, socket_timeout=5)) as probe:
            try:
                probe.ping()
            except ResponseError:
                found = reason(lambda: client.call("GET", "x"))
    admin.script_kill()
    spinning.join()
    assert found == "is busy with a script"
    assert client.call("GET", "x") is None
    client.close()
    other.close()


def test_scripts_are_found_again_after_they_were_flushed(valkey: ValkeyServer, admin: Any) -> None:
    client, raw = Redis.connect(valkey.url), open_client(valkey.url, retries=2, decode_responses=False)
    queue, count = TaskQueue(raw), client.script("return redis.call('INCR', KEYS[1])")
    client.prepare()
    for expected in (1, 4):
        admin.script_flush()
        assert count(["mirror:n"]) == expected
        admin.script_flush()
        assert count.many([(["mirror:n"], [])] * 2) == [expected + 1, expected + 2]
        admin.script_flush()
        assert queue.take(1) == []
        admin.script_flush()
        assert client.now() > 0
    client.close()
    raw.close()


def test_a_patient_client_waits_until_writes_are_accepted_again(valkey: ValkeyServer, admin: Any) -> None:
    client = Redis.connect(valkey.url, retries=100)
    admin.config_set("maxmemory", 1)
    refused = threading.Event()
    retry = client.client.get_retry()
    attempts = iter(range(1_000))

    def attempt() -> None:
        if next(attempts) == 3:
            refused.set()

    retry.on_attempt = attempt
    with capture_logs() as logged:
        writing = threading.Thread(target=lambda: client.call("SET", "mirror:x", 1))
        writing.start()
        assert refused.wait(30)
        assert client.call("GET", "mirror:x") is None  # a read succeeds meanwhile, and does not end the outage
        admin.config_set("maxmemory", 0)
        writing.join(30)
    assert client.call("GET", "mirror:x") == "1"
    assert [line["event"].partition(";")[0] for line in logged] == [
        "Redis, which keeps the jobs, refuses writes: its memory is full (maxmemory)",
        "Redis works again",
    ]
    assert {line["address"] for line in logged} == {f"127.0.0.1:{valkey.port}"}
    assert client.seconds_since_failure() < 60
    client.close()


def test_an_error_of_the_command_itself_is_no_outage(valkey: ValkeyServer) -> None:
    client = Redis.connect(valkey.url)
    client.call("SET", "OOM", "READONLY")
    for ask in (
        lambda: client.call("LPUSH", "OOM", 1),
        lambda: client.calls([["LPUSH", "OOM", "MISCONF "]]),
        lambda: client.script("return redis.call('LPUSH', KEYS[1], 1)")(["OOM"]),
        client.script("error('LOADING the dataset')"),
    ):
        with pytest.raises(ResponseError):
            ask()
    assert client.seconds_since_failure() > 1e9
    client.close()


def test_a_user_without_rights_gets_no_warnings_but_the_reason_of_a_refusal(valkey: ValkeyServer, admin: Any) -> None:
    admin.execute_command("ACL", "SETUSER", "low", "on", ">low-secret", "+ping", "+@connection")
    client = Redis.connect(f"redis://low:low-secret@127.0.0.1:{valkey.port}/0")
    assert client.warnings() == []
    assert reason(lambda: client.call("GET", "x")) == "does not let its user run a command that the mirror needs"
    client.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
            "cannot write: its disk is full",
        ),
        (
            ResponseError("MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to"),
            "cannot write: it fails to save its data to its disk",
        ),
        (
            ResponseError("ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed"),
            "refuses writes: its memory is full (maxmemory)",
        ),
        (
            ResponseError(
                "Error running script (call to f_1): @user_script:3: -READONLY You can't write", status_code="ERR"
            ),
            "refuses writes: it is a read-only replica",
        ),
        (
            ExecAbortError("Transaction discarded because of: OOM command not allowed", status_code="EXECABORT"),
            "refuses writes: its memory is full (maxmemory)",
        ),
        (
            ResponseError("Command # 1 (SET OOM 1) of pipeline caused error: NOREPLICAS Not enough good replicas"),
            "refuses writes: it has fewer replicas than it must have (min-replicas-to-write)",
        ),
        (
            ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
            "refuses writes: it has just become a replica",
        ),
        (
            ReadOnlyError("You can't write against a read only replica.", status_code="READONLY"),
            "refuses writes: it is a read-only replica",
        ),
        (
            BusyLoadingError("Redis is loading the dataset in memory", status_code="LOADING"),
            "is still loading its data",
        ),
        (ClusterDownError("The cluster is down", status_code="CLUSTERDOWN"), "does not answer: its cluster is down"),
        (
            MasterDownError("Link with MASTER is down", status_code="MASTERDOWN"),
            "does not answer: it is a replica that has lost its primary",
        ),
        (TryAgainError("Multiple keys", status_code="TRYAGAIN"), "does not answer: its cluster is moving data"),
        (
            NoPermissionError("User low has no", status_code="NOPERM"),
            "does not let its user run a command that the mirror needs",
        ),
        (AuthenticationError("", status_code="NOAUTH"), "wants a password, and MIRROR_REDIS_URL has none"),
        (AuthenticationError("invalid password"), "refuses the user or the password in MIRROR_REDIS_URL"),
        (vendor.ConnectionError("max number of clients reached"), "accepts no more connections (maxclients)"),
        (vendor.ConnectionError("Connection closed by server."), "does not answer"),
        (vendor.TimeoutError("Timeout reading from socket"), "does not answer in time"),
        (
            InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"),
            "does not answer: what is at its address does not speak Redis' protocol",
        ),
    ],
)
def test_every_other_failure_is_translated_too(error: RedisError, expected: str) -> None:
    def ask() -> None:
        with translated():
            raise error

    assert reason(ask) == expected


def no_such_server(_: ValkeyServer) -> str:
    return f"redis://:low-secret@127.0.0.1:{free_port()}/0"


def no_such_host(_: ValkeyServer) -> str:
    return "redis://:low-secret@redis.invalid:6379/0"


def no_such_socket(_: ValkeyServer) -> str:
    return "unix://:low-secret@/no/such/socket"


def wrong_password(valkey: ValkeyServer) -> str:
    return f"redis://:low-secret@127.0.0.1:{valkey.port}/0"


def no_password(valkey: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{valkey.port}/0"


def wrong_database(valkey: ValkeyServer) -> str:
    return valkey.url.removesuffix("/0") + "/99"


@pytest.mark.parametrize(
    ("url_of", "expected"),
    [
        (no_such_server, "does not answer: nothing listens at its address"),
        (no_such_host, "does not answer: its host name is unknown"),
        (no_such_socket, "does not answer: its socket does not exist"),
        (wrong_password, "refuses the user or the password in MIRROR_REDIS_URL"),
        (no_password, "wants a password, and MIRROR_REDIS_URL has none"),
        (wrong_database, "does not have the database that MIRROR_REDIS_URL names"),
    ],
)
def test_a_wrong_url_is_named_at_once_with_host_and_port_and_no_password(
    valkey: ValkeyServer, url_of: Callable[[ValkeyServer], str], expected: str
) -> None:
    url = url_of(valkey)
    client = Redis.connect(url, retries=1)
    with capture_logs() as logged:
        assert reason(lambda: client.call("PING")) == expected
    [line] = logged  # one line, however often it is tried
    assert line["event"] == f"Redis, which keeps the jobs, {expected}; trying again"
    assert (line["address"], line["log_level"], line["code"]) == (address_of(url), "warning", "REDIS_UNAVAILABLE")
    assert "secret" not in str(line)
    client.close()


def test_tls_at_a_port_that_speaks_something_else_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_answer_in_http, args=[listening])
        answering.start()
        port = listening.getsockname()[1]
        client = Redis.connect(f"rediss://127.0.0.1:{port}/0", retries=0)
        assert reason(lambda: client.call("PING")) == "does not speak TLS at its address"
        plain = Redis.connect(f"redis://127.0.0.1:{port}/0", retries=0)
        assert "does not speak Redis' protocol" in reason(lambda: plain.call("PING"))
        answering.join()
        client.close()
        plain.close()


def _answer_in_http(listening: socket.socket) -> None:
    for _ in range(2):
        connection, _address = listening.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://user:p%40ss@redis.corp:7000/3?ssl_ca_certs=x", "redis.corp:7000"),
        ("rediss://:secret@[::1]/0", "[::1]:6379"),
        ("redis://localhost", "localhost:6379"),
        ("unix://:secret@/run/redis.sock?db=1", "/run/redis.sock"),
    ],
)
def test_an_address_shows_neither_user_nor_password_nor_query(url: str, address: str) -> None:
    assert address_of(url) == address


def test_the_retries_of_a_command_and_of_its_connection_do_not_multiply(
    valkey: ValkeyServer,
) -> None:
    client = Redis.connect(valkey.url, retries=3)
    client.call("SET", keys.CLOCK, 1)
    attempts: list[int] = []
    client.client.get_retry().on_attempt = lambda: attempts.append(1)
    valkey.kill()
    assert reason(lambda: client.call("GET", keys.CLOCK)) == "does not answer: nothing listens at its address"
    assert len(attempts) == 5  # one with the dead pooled connection, then one more and three retries
    client.close()
