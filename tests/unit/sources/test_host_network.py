"""The host's addresses as facts; psutil's words for them by values of Linux and macOS."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from vmdns.sources import host_network, neighbours
from vmdns.sources.host_network import adapter_facts, address_facts, parse_psutil
from vmdns.sources.neighbours import NeighbourEntry
from vmdns.state.facts import Fact, HostAddress
from vmdns.windows.ip_helper import PREFERRED, UP, Adapter, AdapterAddress

INET, INET6 = socket.AF_INET, socket.AF_INET6


def test_what_counts() -> None:
    entries = [
        ("lo", "127.0.0.1", 8),
        ("lo", "::1", 128),
        ("lo", "198.18.53.1", 32),
        ("eth0", "192.168.1.5", 24),
        ("eth0", "192.168.1.5", 24),
        ("eth0", "2001:db8::5", 64),
        ("eth0", "fe80::5", 64),
        ("eth0", "169.254.1.5", 16),
        ("eth0", "0.0.0.0", 0),
        ("eth0", "None", 24),
    ]
    assert [(one.interface, one.prefix) for one in address_facts(entries).values()] == [
        ("eth0", "192.168.1.5/24"),
        ("eth0", "2001:db8::5/64"),
        ("lo", "127.0.0.1/8"),
        ("lo", "198.18.53.1/32"),
        ("lo", "::1/128"),
    ]
    assert address_facts(
        [("Ethernet 2", "192.168.56.1", 24)], {"Ethernet 2": "VirtualBox Host-Only Ethernet Adapter"}
    ) == {
        "address:Ethernet 2 192.168.56.1/24": HostAddress(
            "Ethernet 2", "192.168.56.1/24", "VirtualBox Host-Only Ethernet Adapter"
        )
    }


def nic(family: int, address: str, netmask: str | None) -> Any:
    return SimpleNamespace(family=family, address=address, netmask=netmask)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (nic(INET, "192.168.1.5", "255.255.255.0"), [("192.168.1.5", 24)]),
        (nic(INET, "198.18.53.1", "255.255.255.255"), [("198.18.53.1", 32)]),
        (nic(INET, "10.8.0.1", None), [("10.8.0.1", 32)]),  # a tunnel
        (nic(INET6, "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), [("::1", 128)]),
        (nic(INET6, "2001:db8::5", "ffff:ffff:ffff:ffff::"), [("2001:db8::5", 64)]),
        (nic(INET6, "fe80::5%en0", "ffff:ffff:ffff:ffff::"), [("fe80::5", 64)]),
        (nic(-1, "08-00-27-00-00-01", None), []),
    ],
)
def test_psutil(one: Any, expected: list[tuple[str, int]]) -> None:
    found = parse_psutil({"x": [one]}, {"x": SimpleNamespace(isup=True)})
    assert [(address, length) for _, address, length in found] == expected
    assert parse_psutil({"x": [one]}, {"x": SimpleNamespace(isup=False)}) == []


def test_windows() -> None:
    def adapter(name: str, description: str, status: int, *addresses: AdapterAddress) -> Adapter:
        return Adapter(7, 7, "{}", name, description, "", 6, status, 25, addresses, (), (), "")

    adapters = [
        adapter(
            "이더넷 2", "VirtualBox Host-Only Ethernet Adapter #2", UP,
            AdapterAddress("192.168.56.1", 24, PREFERRED), AdapterAddress("fe80::1%7", 64, PREFERRED),
            AdapterAddress("fd12::1", 48, PREFERRED), AdapterAddress("fd12::2", 64, 1),
        ),
        adapter("WLAN", "Wi-Fi 6", 2, AdapterAddress("192.168.1.5", 24, PREFERRED)),
    ]  # fmt: skip
    at = "이더넷 2", "VirtualBox Host-Only Ethernet Adapter #2"
    assert [*adapter_facts(adapters).values()] == [
        HostAddress(at[0], "192.168.56.1/24", at[1]),
        HostAddress(at[0], "fd12::1/48", at[1]),
    ]


class Output:
    """What a watcher reports, and a signal for each look that is over."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, list[str]]] = []
        self.troubles: list[tuple[str, str]] = []
        self.looked = threading.Semaphore(0)

    def report(self, source: str, found: dict[str, Fact]) -> None:
        self.reports.append((source, list(found)))

    def report_trouble(self, source: str, text: str) -> None:
        self.troubles.append((source, text))

    def confirm_look(self, source: str) -> None:
        self.looked.release()


def test_polling_reports_everything_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = SimpleNamespace(
        net_if_addrs=lambda: {"en0": [nic(INET, address, "255.255.255.0") for address in own]},
        net_if_stats=lambda: {"en0": SimpleNamespace(isup=True)},
    )
    own, seen = ["192.168.1.5"], [NeighbourEntry("en0", "080027000001", "192.168.1.7")]
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    monkeypatch.setattr(neighbours, "read_neighbours", lambda: seen)
    monkeypatch.setattr(host_network, "open_tables", host_network.PolledTables)
    monkeypatch.setattr(host_network, "POLL_SECONDS", 3600.0)
    output = Output()
    watcher = host_network.HostWatcher(output)  # type: ignore[arg-type]

    def look(source: str) -> None:
        output.reports.clear()
        watcher.request_look(source)
        assert output.looked.acquire(timeout=30)

    watcher.request_look("neighbours")
    watcher.start()
    assert output.looked.acquire(timeout=30)
    assert output.reports == [
        ("addresses", ["address:en0 192.168.1.5/24"]),
        ("neighbours", ["neighbour:en0 192.168.1.7"]),
    ]
    own[0] = "192.168.1.6"
    look("addresses")
    assert output.reports == [("addresses", ["address:en0 192.168.1.6/24"])]

    def fail() -> list[NeighbourEntry]:
        raise subprocess.TimeoutExpired(["arp"], 5.0)

    monkeypatch.setattr(neighbours, "read_neighbours", fail)
    look("neighbours")
    look("neighbours")
    ((source, text),) = output.troubles
    assert source == "neighbours"
    assert "timed out" in text
    monkeypatch.setattr(neighbours, "read_neighbours", lambda: seen)
    look("neighbours")
    assert output.troubles[1:] == [("neighbours", "")]
    assert output.reports == [("neighbours", ["neighbour:en0 192.168.1.7"])]


@pytest.mark.parametrize("tables", [host_network.open_tables, host_network.PolledTables])
def test_this_machine(tables: Callable[[], host_network.NetlinkTables | host_network.PolledTables]) -> None:
    if tables is host_network.PolledTables:
        pytest.importorskip("psutil")
    with closing(tables()) as found:
        assert "127.0.0.1/8" in {one.prefix for one in found.read("addresses").values()}  # type: ignore[union-attr]
        if sys.platform != "linux" or tables is host_network.open_tables:
            found.read("neighbours")
