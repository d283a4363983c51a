"""Redirects lead to permitted origins only, and drop the login at another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.errors import PlainHttpNotAllowed, SourceFailed
from mirror.http.address_guard import AddressGuard
from mirror.http.failures import ServerFailed
from mirror.http.redirects import MAX_REDIRECTS, REFUSAL_SECONDS, FinalResponse, RangeRefusals, Redirects
from mirror.http.transport import Origin, Transport
from tests.integration.http.conftest import LOOPBACK
from tests.support.fakes.server import HttpServer, Reply, Request


@pytest.fixture
def redirects() -> Iterator[Redirects]:
    transport = Transport(AddressGuard(LOOPBACK))
    yield Redirects(transport)
    transport.close()


def follow(
    redirects: Redirects, url: str, *, authorization: str | None = None, permitted: bool = True
) -> FinalResponse:
    return redirects.follow("GET", url, {}, authorization, server="first.example", permits=lambda _: permitted)


def show_login(request: Request) -> Reply:
    return Reply(200, body=request.headers.get("Authorization", "none").encode())


def test_a_login_is_sent_within_an_origin_and_dropped_at_another(redirects: Redirects) -> None:
    with HttpServer("other", show_login) as other:

        def lead_away(request: Request) -> Reply:
            to = {"/here": "/shown", "/away": f"http://{other.host}/shown"}
            return Reply(307, {"Location": to[request.path]}) if request.path in to else show_login(request)

        with HttpServer("first", lead_away) as first:
            for path, shown, target in (
                ("/here", b"Bearer secret", None),
                ("/away", b"none", f"http://{other.host}/shown"),
            ):
                final = follow(redirects, f"http://{first.host}{path}", authorization="Bearer secret")
                assert (final.response.read(100, "a login"), final.target) == (shown, target)


def test_another_origin_that_demands_a_login_is_a_failure(redirects: Redirects) -> None:
    with (
        HttpServer("other", lambda _: Reply(401)) as other,
        HttpServer("first", lambda _: Reply(302, {"Location": f"http://{other.host}/"})) as first,
        pytest.raises(ServerFailed, match="the target of its redirect answered 401"),
    ):
        follow(redirects, f"http://{first.host}/")


def test_an_origin_that_is_not_permitted_is_not_contacted(redirects: Redirects) -> None:
    with (
        HttpServer("other", show_login) as other,
        HttpServer("first", lambda _: Reply(302, {"Location": f"http://{other.host}/"})) as first,
    ):
        with pytest.raises(PlainHttpNotAllowed, match=r"redirects to .* without TLS"):
            follow(redirects, f"http://{first.host}/", permitted=False)
        assert other.connections == 0


def test_redirects_end(redirects: Redirects) -> None:
    requests: list[str] = []

    def lead_on(request: Request) -> Reply:
        requests.append(request.path)
        return Reply(302, {"Location": "/again"})

    with (
        HttpServer("circle", lead_on) as server,
        pytest.raises(SourceFailed, match=f"redirects more than {MAX_REDIRECTS} times"),
    ):
        follow(redirects, f"http://{server.host}/")
    assert len(requests) == MAX_REDIRECTS + 1


def test_a_refusal_is_forgotten_after_a_while() -> None:
    now = 0.0
    refusals = RangeRefusals(clock=lambda: now)
    origin, other = Origin.of("https://registry.example/v2/"), Origin.of("http://registry.example/v2/")
    refusals.remember(origin)
    assert (refusals.knows(origin), refusals.knows(other)) == (True, False)
    now = REFUSAL_SECONDS
    assert not refusals.knows(origin)
