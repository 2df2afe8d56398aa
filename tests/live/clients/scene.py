"""What the clients are tested on: VMs on a host-only and a bridged network, vmdns beside them, DHCP on both wires."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.clients.net import Dhcp, Guest, Wire
from tests.live.clients.stubs import Stub
from tests.live.lab import Lab, Server

ZONES = ("local", "vm.internal")


@dataclass
class Link:
    """One network: the interface of the host, the host's address there, and that of the VM that is asked for."""

    interface: str
    host: str
    web: str
    asker: str
    wire: Wire = field(init=False)
    mac: str = ""  # of the VM that asks

    def __str__(self) -> str:
        return "host-only" if self.interface.startswith("vboxnet") else "bridged"

    def near(self, number: int) -> str:
        """An address on this network."""
        return f"{self.host.rpartition('.')[0]}.{number}"


@dataclass
class Scene:
    """VM web and VM desk, each on both links; a namespace with a MAC of desk's is desk."""

    lab: Lab
    server: Server
    links: dict[str, Link]
    web: str
    desk: str

    @contextlib.contextmanager
    def asker(self, link: Link, stub: Stub) -> Iterator[Guest]:
        """VM desk with this resolver, and a lease of this link."""
        guest = stub.boot(link.wire, link.mac, "desk")
        try:
            guest.dhcp(stub.tell)
            yield guest
        finally:
            guest.close()

    def expected(self, link: Link) -> dict[str, str]:
        """Each question, and what a guest on this link must find."""
        return {"web.local": link.web, "web.vm.internal": link.web, "web": link.web, link.web: "web.local"}


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """The whole, with vmdns answering for web on both links. Ends all of it."""
    links = {
        "host-only": Link("vboxnet0", "192.168.56.1", "192.168.56.11", "192.168.56.21"),
        "bridged": Link("lan0", "192.0.2.20", "192.0.2.11", "192.0.2.31"),
    }
    nics = ("--nic1", "hostonly", "--host-only-adapter1", "vboxnet0", "--nic2", "bridged", "--bridge-adapter2", "lan0")
    with contextlib.ExitStack() as ends:
        lab = Lab(folder)
        ends.callback(lab.close)
        uuids = {}
        for name in ("web", "desk"):
            uuids[name] = lab.create(name, *nics, wired=(0, 1))
            lab.start(uuids[name])
        for slot, link in enumerate(links.values()):
            link.mac = lab.mac(uuids["desk"], slot + 1)
            link.wire = Wire(link.interface)
            ends.callback(link.wire.close)
            leased = (link.mac, link.asker)
            dhcp = Dhcp(link.wire, link.near(2), resolver=link.host, domains=ZONES, leased=leased)
            ends.callback(dhcp.close)
            lab.report(uuids["web"], link.web, nic=slot + 1, entry=slot, count=2)
            lab.report(uuids["desk"], link.asker, nic=slot + 1, entry=slot, count=2)
        server = Server(lab, at="")
        ends.callback(server.stop)
        server.is_at("web.local", *(link.web for link in links.values()))
        yield Scene(lab, server, links, uuids["web"], uuids["desk"])
