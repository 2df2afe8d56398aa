"""vmdns as a Windows program beside a real VirtualBox, by both readers (tests/live/winlab.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.live.lab import DOOR, HOST_ONLY, ON_HOST_ONLY, ON_LAN, Server, ip, on_nat_network, run, until
from tests.live.winlab import Client, Windows, popen, unavailable

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())

# The VMs that run all the time: their names, labels, adapters and addresses. A rule of plain NAT leads to the last one.
BOOKS, LINUX, WEB, PLAIN = "xn--bcher-kva", "xn--pd1b38l32h", "web", "plain"
KITCHEN, NEW = "xn--kche-0ra", "xn----tl1f29pinh"
VMS = {
    "Bücher": (*on_nat_network(), "--mac-address1", "080027000001"),
    "리눅스": (*ON_HOST_ONLY, "--mac-address1", "080027000002"),
    "web 🚀": (*ON_LAN, "--mac-address1", "080027000003"),
    "plain": ("--nic1", "nat", "--natpf1", "ssh,tcp,,2222,,22"),
}
ON_NET, ON_WIRE, ON_SITE = "10.0.2.4", "192.168.56.101", "192.0.2.77"
BEHIND = "198.51.100.1"  # where guests behind plain NAT ask: it is the host's, and no network hands it out
# Each view: the address of the host that is asked, and what it gets. As guests behind NAT, the host asks itself.
VIEWS = {
    "host": ("127.0.0.1", {LINUX: [ON_WIRE], WEB: [ON_SITE], BOOKS: [], PLAIN: ["127.0.0.1"]}),
    "NAT Network": (DOOR, {LINUX: [ON_WIRE], WEB: [ON_SITE], BOOKS: [ON_NET], PLAIN: [DOOR]}),
    "host-only": ("192.168.56.1", {LINUX: [ON_WIRE], WEB: [], BOOKS: [], PLAIN: ["192.168.56.1"]}),
    "bridged": ("192.0.2.20", {LINUX: [], WEB: [ON_SITE], BOOKS: [], PLAIN: ["192.0.2.20"]}),
    "plain NAT": (BEHIND, {LINUX: [ON_WIRE], WEB: [ON_SITE], BOOKS: [], PLAIN: [BEHIND]}),
}


@pytest.fixture(scope="module")
def windows() -> Iterator[Windows]:
    made = Windows()
    try:
        made.nat_network()
        ip("addr", "add", f"{BEHIND}/32", "dev", "lo")
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def vms(windows: Windows) -> dict[str, str]:
    """The UUIDs of VMS."""
    return {
        name: windows.create(name, *options, wired=() if name == "plain" else (0,)) for name, options in VMS.items()
    }


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Client]]:
    """The guests on a wire of their own, by view."""
    made = {
        "host-only": Client("vboxnet0", ON_WIRE, "08:00:27:00:00:02"),
        "bridged": Client("lan0", ON_SITE, "08:00:27:00:00:03"),
    }
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module", params=["api", "vboxmanage"])
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(windows: Windows, reader: str) -> Iterator[Server]:
    """`vmdns run`, started before VirtualBox is installed."""
    # Ports of their own: under Wine a UDP socket of an interface's address takes the port at all of its addresses.
    listen = [word for address, _ in VIEWS.values() if address != "127.0.0.1" for word in ("--listen", f"{address}:0")]
    with windows.without_virtualbox():
        made = Server(windows, "--reader", reader, *listen, at="127.0.0.1", start=popen)
        try:
            made.saw("VirtualBox is not installed here")
        except AssertionError:
            made.stop()
            raise
    yield made
    made.stop()
    print(*made.lines, sep="\n")


def test_virtualbox_that_is_installed_later(server: Server, reader: str) -> None:
    found = server.saw("VirtualBox 7.2")
    assert ("API" in found) == (reader == "api")


def test_a_vm_through_its_life(windows: Windows, server: Server) -> None:
    uuid = windows.create("Küche 🚀", *ON_HOST_ONLY)
    windows.start(uuid)
    windows.lease(HOST_ONLY, (windows.mac(uuid), "192.168.56.120"))
    server.is_at(f"{KITCHEN}.local", "192.168.56.120")
    windows.vbm("setextradata", uuid, "vmdns/names", "shop")
    server.is_at("shop.local", "192.168.56.120")
    windows.report(uuid, "192.168.56.121")
    server.is_at("shop.local", "192.168.56.121")

    windows.vbm("controlvm", uuid, "pause")
    until(lambda: 'VMState="paused"' in windows.info(uuid), "paused")
    assert server.addresses("shop.local")
    windows.vbm("controlvm", uuid, "resume")
    windows.vbm("controlvm", uuid, "savestate")
    server.is_at("shop.local")
    windows.start(uuid)
    server.is_at("shop.local", "192.168.56.120")  # what Guest Additions reported before does not count any more
    windows.power_off(uuid)
    server.is_at("shop.local")

    windows.vbm("modifyvm", uuid, "--name", "새 이름")
    windows.start(uuid)
    server.is_at(f"{NEW}.local", "192.168.56.120")
    server.is_at(f"{KITCHEN}.local")
    windows.discard(uuid)
    server.is_at("shop.local")


def test_each_view_gets_the_address_that_it_can_use(
    windows: Windows, server: Server, vms: dict[str, str], clients: dict[str, Client]
) -> None:
    for uuid in vms.values():
        windows.start(uuid)
    windows.lease("NatNetwork", ("080027000001", ON_NET))
    windows.lease(HOST_ONLY, ("080027000002", ON_WIRE))
    windows.report(vms["web 🚀"], ON_SITE)
    for view, (address, expected) in VIEWS.items():
        for label, addresses in expected.items():
            what = f"{view}: {label} at {addresses}"
            until(lambda: ask(server, view, address, clients, label) == addresses, what, 150)  # noqa: B023


def ask(server: Server, view: str, address: str, clients: dict[str, Client], label: str) -> list[str] | None:
    """The addresses that a client of a view gets from the host's address; None where there is no such name."""
    port = server.saw(f"listening on {address} port").split()[4]
    command = ["dig", f"@{address}", "-p", port, "+time=3", "+tries=1", f"{label}.local"]
    answer = clients[view].run(*command) if view in clients else run(*command, "-b", address, check=False)
    if "status: NOERROR" not in answer:
        return None
    return re.findall(r"^\S+\s+\d+\s+IN\s+A\s+(\S+)$", answer, re.MULTILINE)


def test_the_commands(windows: Windows, server: Server) -> None:
    server.is_at(f"{LINUX}.local", ON_WIRE)
    for words, line in ((["names"], ON_WIRE), (["ask", "web"], ON_SITE), (["status"], "7.2"), (["doctor"], "vmdns")):
        windows.command(*words).saw(line)


def test_vboxsvc_dies(windows: Windows, server: Server, vms: dict[str, str], reader: str) -> None:
    server.is_at(f"{LINUX}.local", ON_WIRE)
    before = len(server.lines)
    windows.kill("VBoxSVC")
    if reader == "api":  # what stands for Windows' VBoxSVC here can never connect to another one
        server.saw("its last names stay in force", before)
        assert server.addresses(f"{LINUX}.local") == [ON_WIRE]
        return
    server.is_at(f"{LINUX}.local")  # it took the VM's process along
    command = ("startvm", vms["리눅스"], "--type", "headless")
    until(lambda: "success" in windows.vbm(*command, check=False), "started again")
    server.is_at(f"{LINUX}.local", ON_WIRE)
