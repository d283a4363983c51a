"""Only the public internet and allowed networks may be connected to."""

from __future__ import annotations

import ipaddress

import pytest

from mirror.errors import AddressNotAllowed
from mirror.http.address_guard import AddressGuard

HOSTILE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.254",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "99.255.255.255", "172.32.0.1", "192.167.0.1", "2606:4700:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_outside_the_public_internet_is_refused(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        AddressGuard().require("registry.example", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    AddressGuard().require("registry.example", address)


def test_an_allowed_network_is_allowed_and_its_neighbour_is_not() -> None:
    guard = AddressGuard([ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd12::/16")])
    guard.require("registry.corp", "10.1.2.3")
    guard.require("registry.corp", "fd12::7")
    for neighbour in ("10.2.0.1", "fd13::1", "127.0.0.1"):
        with pytest.raises(AddressNotAllowed):
            guard.require("registry.corp", neighbour)


def test_allowing_an_ipv4_network_does_not_allow_it_inside_ipv6() -> None:
    guard = AddressGuard([ipaddress.ip_network("127.0.0.0/8")])
    for disguised in ("::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"):
        with pytest.raises(AddressNotAllowed):
            guard.require("registry.example", disguised)


def test_the_error_names_the_host_the_address_and_the_reason() -> None:
    with pytest.raises(AddressNotAllowed, match=r"evil\.example \(169\.254\.169\.254\).*link-local"):
        AddressGuard().require("evil.example", "169.254.169.254")
