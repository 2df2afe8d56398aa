"""Two NAT Networks of one VirtualBox at once, with the same addresses: each one's guests find their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.live import natlab
from tests.live.lab import until
from tests.live.natguest import Guest, guest

pytestmark = pytest.mark.skipif(bool(natlab.available()), reason=natlab.available() or "natlab is there")

# Each network: its wire, the address at which its guests ask, and its two VMs with the numbers of their guests.
NETWORKS = {
    "NatNetwork": ("br0", "198.18.53.1", {"web": 1, "db": 2}),
    "Second": ("br1", "198.18.53.2", {"shop": 3, "mail": 4}),
}


@pytest.fixture
def server() -> Iterator[natlab.Server]:
    with natlab.up():
        natlab.ip("natlabwire", "link", "add", "br1", "type", "bridge")
        natlab.ip("natlabwire", "link", "set", "br1", "up")
        natlab.run("resolv", "nameserver 192.0.2.1")
        natlab.vbm("natnetwork", "add", "--netname", "Second", "--network", "10.0.2.0/24", "--enable", "--dhcp", "on")
        natlab.vbm("natnetwork", "start", "--netname", "Second")
        made = natlab.Server("--wire")
        try:
            yield made
        finally:
            made.stop()


def test_two_networks_with_the_same_addresses(server: natlab.Server) -> None:
    guests: dict[str, Guest] = {}
    with contextlib.ExitStack() as stack:
        for network, (bridge, door, names) in NETWORKS.items():
            for name, number in names.items():
                guests[name] = stack.enter_context(guest(number, bridge))
                natlab.create(name, guests[name].mac, network)
                natlab.start(name)
                server.saw(f"+ {name}.local")
            server.saw(f"listening on {door} port 53")
        _show(server, guests)


def _show(server: natlab.Server, guests: dict[str, Guest]) -> None:
    leases: dict[str, list[str]] = {}
    for network, (_, door, names) in NETWORKS.items():
        leases[network] = [guests[name].lease(dns=door, domain="local")["ip"] for name in names]
    assert leases["NatNetwork"] == leases["Second"]
    first, second = leases["Second"]

    for network, (_, _, names) in NETWORKS.items():
        asker, other = names
        took = guests[asker].wait(other, second, since=guests[other].bound)
        print(f"{asker} on {network} finds {other} at {second}, at most {took * 1000:.0f} ms after its lease")
        assert took < 2
        for name in (other, f"{other}.local", f"{other}.vm.internal"):
            assert guests[asker].finds(name) == [second]
        assert guests[asker].finds(second) == [f"{other}.local"]
        assert guests[other].finds(asker) == [first]
        assert guests[other].finds(first) == [f"{asker}.local"]

    # Neither sees the other network's, nor does the host.
    assert guests["web"].finds("shop") == guests["shop"].finds("web") == []
    said = guests["web"].told("shop.local")
    assert "VM 'shop' is on NAT Network Second, which a client on NAT Network NatNetwork cannot reach" in said
    said = natlab.run("rig", "dig", "@127.0.0.1", "mail.local")
    assert "VM 'mail' is on NAT Network Second, which the host cannot reach" in said

    with contextlib.ExitStack() as stack:
        for name, one in guests.items():
            stack.enter_context(one.serving(f"I am {name}\n"))
        guests["web"].fetches("http://db.local/", "I am db\n")
        guests["shop"].fetches("http://mail.local/", "I am mail\n")

        # By a rule of its network each is reached from the other one, though both rules lead to the same address.
        for network, port in (("NatNetwork", 20088), ("Second", 20089)):
            rule = f"http:tcp:[]:{port}:[{first}]:80"
            natlab.vbm("natnetwork", "modify", "--netname", network, "--port-forward-4", rule)
            server.saw(f"host:{port} -> 80 http")
        for asker, name, port in (("web", "shop", 20089), ("shop", "web", 20088)):
            wanted = f"IN SRV 0 0 {port} {name}.local."
            until(lambda: wanted in guests[asker].told(f"_http._tcp.{name}.local", "SRV"), wanted)  # noqa: B023
            guests[asker].fetches(f"http://{name}.local:{port}/", f"I am {name}\n")
