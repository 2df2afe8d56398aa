"""Guests of VirtualBox's own NAT Network: wired by `vmdns run --wire`, they find each other by name."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import pytest

from tests.live import natlab
from tests.live.lab import until
from tests.live.natguest import Guest, guest

pytestmark = natlab.needs_natlab

GIVEN = {"dns": "198.18.53.1", "domain": "local", "search": "local vm.internal"}
OTHER_ID = "00766d646e73"  # a client identifier that is not made of the MAC (RFC 2132 section 9.14)
DHCP = "10.0.2.2"  # VirtualBox's DHCP server


@pytest.fixture(scope="module")
def server() -> Iterator[natlab.Server]:
    """`vmdns run --wire`, on a host whose own resolver is another."""
    with natlab.up():
        natlab.run("resolv", "nameserver 192.0.2.1")
        with natlab.serving("--wire") as made:
            made.saw("listening on 198.18.53.1 port 53")
            yield made


@contextlib.contextmanager
def running(server: natlab.Server, name: str, number: int) -> Iterator[Guest]:
    with guest(number) as made:
        natlab.start_vm(name, made.mac)
        server.saw(f"+ {name}.local")
        yield made
        natlab.discard(name)


@pytest.fixture
def web(server: natlab.Server) -> Iterator[Guest]:
    with running(server, "web", 1) as made:
        yield made


@pytest.fixture
def db(server: natlab.Server) -> Iterator[Guest]:
    with running(server, "db", 2) as made:
        yield made


def test_two_guests_find_each_other(web: Guest, db: Guest) -> None:
    ours = web.lease(**GIVEN)["ip"]
    theirs = db.lease(**GIVEN)["ip"]
    # All that DHCP gave is in the guest's resolv.conf, and nothing else.
    assert web.resolv_conf == "search local vm.internal\nnameserver 198.18.53.1\n"
    took = web.wait("db.local", theirs, since=db.bound)
    print(f"web finds db {took * 1000:.0f} ms after db has its lease (the command that asks is in it)")
    assert took < 2

    for client, name, address in ((web, "db", theirs), (db, "web", ours), (web, "web", ours)):
        for form in (name, f"{name}.local", f"{name}.vm.internal"):
            assert client.resolve(form) == [address], (form, client.number)
        assert client.resolve(address) == [f"{name}.local"]
    assert web.resolve("nosuch") == web.resolve("10.0.2.200") == []

    # The host itself cannot reach them.
    for form in ("web.local", "web.vm.internal"):
        answer = natlab.run("rig", "dig", "@127.0.0.1", form)
        assert "status: NOERROR" in answer
        assert "ANSWER: 0" in answer
        assert "VM 'web' is on NAT Network NatNetwork, which the host cannot reach" in answer


def test_a_name_follows_the_leases(web: Guest, db: Guest, server: natlab.Server) -> None:
    db.lease(**GIVEN)
    times: dict[str, float] = {}

    def follows(what: str, *addresses: str) -> None:
        times[what] = db.wait("web", *addresses, since=web.bound)

    first = web.lease(**GIVEN)["ip"]
    follows("a lease", first)

    settings = ("dhcpserver", "modify", "--network", "NatNetwork", "--mac-address", "08:00:27:aa:bb:01")
    natlab.vbm(*settings, "--fixed-address", "10.0.2.88")
    natlab.vbm("dhcpserver", "restart", "--network", "NatNetwork")
    web.lease(ip="10.0.2.88", **GIVEN)
    follows("a fixed address", "10.0.2.88")
    assert db.resolve("10.0.2.88") == ["web.local"]
    assert db.resolve(first) == []

    natlab.vbm(*settings, "--remove-config")
    natlab.vbm("dhcpserver", "restart", "--network", "NatNetwork")
    again = web.lease(**GIVEN)["ip"]
    follows("a lease again", again)

    other = web.lease(OTHER_ID, **GIVEN)["ip"]
    assert other != again
    follows("a second client identifier", other)
    assert db.resolve(other) == ["web.local"]
    assert db.resolve(again) == []

    for identity, address in (("01" + web.mac.lower(), again), (OTHER_ID, other)):
        web.run("busybox", "ping", "-c", "1", "-W", "2", DHCP)  # who has the DHCP server's address
        web.run(sys.executable, "tests/live/dhcp_release.py", "eth0", address, DHCP, identity)
    start = time.time()
    times["a release"] = db.wait("web", since=start)
    assert "VM 'web' runs, but no address of it is known yet" in db.query("web.local")

    natlab.box.power_off("web")
    start = time.time()
    until(lambda: "NXDOMAIN" in db.query("web.local"), "web.local is gone")
    times["its end"] = time.time() - start
    print("the other guest follows", ", ".join(f"{what} in {took * 1000:.0f} ms" for what, took in times.items()))
