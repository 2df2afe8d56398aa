"""What the clients are tested on: VMs on a host-only and a bridged network, vmdns beside them, DHCP on both wires."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.live.clients.net import Dhcp, Guest, Wire
from tests.live.clients.stubs import Stub
from tests.live.lab import ON_LAN, Lab, Server, until

ZONES = ("local", "vm.internal")


@dataclass
class Link:
    """One network: the interface of the host, the host's address there, and that of the VM that is asked for."""

    interface: str
    host: str
    web: str
    desk: str
    wire: Wire = field(init=False)
    mac: str = ""  # of VM desk

    def __str__(self) -> str:
        return "host-only" if self.interface.startswith("vboxnet") else "bridged"

    def near(self, number: int) -> str:
        """An address on this network."""
        return f"{self.host.rpartition('.')[0]}.{number}"


@dataclass
class Scene:
    """VM web and VM desk, each on both links. A namespace with a MAC of desk's is desk.

    Of web, Guest Additions report the addresses; of desk nothing is known but what the host sees of it.
    """

    lab: Lab
    server: Server
    links: dict[str, Link]

    @contextlib.contextmanager
    def router(self, link: Link, *, silent: bool = False) -> Iterator[None]:
        """A DHCP server on this link that hands out vmdns and its zones; a silent one itself, and no domain."""
        handed: dict[str, Any] = {} if silent else {"resolver": link.host, "domains": ZONES}
        dhcp = Dhcp(link.wire, link.near(2), leased=(link.mac, link.desk), **handed)
        try:
            yield
        finally:
            dhcp.close()

    @contextlib.contextmanager
    def guest(self, link: Link, stub: Stub, *, name: str = "desk", mac: str = "") -> Iterator[Guest]:
        """A guest with this resolver and a lease; VM desk if no MAC says otherwise."""
        guest = stub.boot(link.wire, mac or link.mac, name)
        try:
            guest.dhcp(stub.configure)
            yield guest
        finally:
            guest.close()

    def start_late(self) -> str:
        """VM late on the bridged network, without Guest Additions and without a lease of VirtualBox's; its MAC."""
        uuid = self.lab.create("late", *ON_LAN)
        self.lab.start(uuid)
        ready = lambda: "late" in self.server.dig("late.local") and not self.server.addresses("late.local")  # noqa: E731
        until(ready, "late runs")
        return self.lab.mac(uuid)

    def expected(self, link: Link) -> dict[str, str]:
        """Each question, and what a guest on this link must find."""
        return {"web.local": link.web, "web.vm.internal": link.web, "web": link.web, link.web: "web.local"}


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """The whole, with vmdns answering for web on both links. Ends all of it."""
    links = {
        "host-only": Link("vboxnet0", "192.168.56.1", "192.168.56.11", "192.168.56.21"),
        "bridged": Link("lan0", "192.0.2.20", "192.0.2.11", "192.0.2.21"),
    }
    nics = ("--nic1", "hostonly", "--host-only-adapter1", "vboxnet0", "--nic2", "bridged", "--bridge-adapter2", "lan0")
    with contextlib.ExitStack() as ends:
        for link in links.values():
            link.wire = Wire(link.interface)
            ends.callback(link.wire.close)
        lab = Lab(folder)
        ends.callback(lab.close)
        web, desk = (lab.create(name, *nics, wired=(0, 1)) for name in ("web", "desk"))
        for uuid in (web, desk):
            lab.start(uuid)
        for slot, link in enumerate(links.values()):
            link.mac = lab.mac(desk, slot + 1)
            lab.report(web, link.web, nic=slot + 1, entry=slot, count=2)
        server = Server(lab, at="")
        ends.callback(server.stop)
        server.is_at("web.local", *(link.web for link in links.values()))
        for link in links.values():
            server.saw(f"listening on {link.host} port 53")
        yield Scene(lab, server, links)
