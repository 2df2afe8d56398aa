"""Two NAT Networks of one VirtualBox at once, with the same addresses: each one's guests find their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.live import natlab
from tests.live.lab import until
from tests.live.natguest import Guest, guest

pytestmark = natlab.needs_natlab

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
        natlab.box.add_nat_network("Second")
        natlab.vbm("natnetwork", "start", "--netname", "Second")
        with natlab.serving("--wire") as made:
            yield made


def test_two_networks_with_the_same_addresses(server: natlab.Server) -> None:
    guests: dict[str, Guest] = {}
    with contextlib.ExitStack() as stack:
        for network, (bridge, address, names) in NETWORKS.items():
            for name, number in names.items():
                guests[name] = stack.enter_context(guest(number, bridge))
                natlab.start_vm(name, guests[name].mac, network)
                server.saw(f"+ {name}.local")
            server.saw(f"listening on {address} port 53")
        _check(server, guests)


def _check(server: natlab.Server, guests: dict[str, Guest]) -> None:
    leases: dict[str, list[str]] = {}
    for network, (_, address, names) in NETWORKS.items():
        leases[network] = [guests[name].lease(dns=address, domain="local")["ip"] for name in names]
    assert leases["NatNetwork"] == leases["Second"]
    first, second = leases["Second"]

    for network, (_, _, names) in NETWORKS.items():
        client, other = names
        took = guests[client].wait(other, second, since=guests[other].bound)
        print(f"{client} on {network} finds {other} at {second}, at most {took * 1000:.0f} ms after its lease")
        assert took < 2
        for name in (other, f"{other}.local", f"{other}.vm.internal"):
            assert guests[client].resolve(name) == [second]
        assert guests[client].resolve(second) == [f"{other}.local"]
        assert guests[other].resolve(client) == [first]
        assert guests[other].resolve(first) == [f"{client}.local"]

    # Neither sees the other network's, nor does the host.
    assert guests["web"].resolve("shop") == guests["shop"].resolve("web") == []
    answer = guests["web"].query("shop.local")
    assert "VM 'shop' is on NAT Network Second, which a client on NAT Network NatNetwork cannot reach" in answer
    answer = natlab.run("rig", "dig", "@127.0.0.1", "mail.local")
    assert "VM 'mail' is on NAT Network Second, which the host cannot reach" in answer

    with contextlib.ExitStack() as stack:
        for name, one in guests.items():
            stack.enter_context(one.serving(f"I am {name}\n"))
        guests["web"].fetch("http://db.local/", "I am db\n")
        guests["shop"].fetch("http://mail.local/", "I am mail\n")

        # By a rule of its network each is reached from the other one, though both rules lead to the same address.
        for network, port in (("NatNetwork", 20088), ("Second", 20089)):
            rule = f"http:tcp:[]:{port}:[{first}]:80"
            natlab.vbm("natnetwork", "modify", "--netname", network, "--port-forward-4", rule)
            server.saw(f"host:{port} -> 80 http")
        for client, name, port in (("web", "shop", 20089), ("shop", "web", 20088)):
            wanted = f"IN SRV 0 0 {port} {name}.local."
            until(lambda: wanted in guests[client].query(f"_http._tcp.{name}.local", "SRV"), wanted)  # noqa: B023
            guests[client].fetch(f"http://{name}.local:{port}/", f"I am {name}\n")
