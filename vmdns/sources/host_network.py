"""Reports the host's addresses and neighbours: Linux notifies of changes (rtnetlink(7)), other systems are polled.

On Linux, a raw socket receives the kernel's multicast groups. A change of links or addresses only means "read again". A
change of the neighbour table names the entry, and only that entry is updated, because reading a table of 1,000 takes
50 ms. When the kernel dropped messages (ENOBUFS), everything is read again.

Windows notifies of changes of addresses, but not of neighbours. VirtualBox names an adapter by its description there.
Run under Wine, never on macOS.
"""

from __future__ import annotations

import errno
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any

from vmdns.sources import neighbours
from vmdns.state.facts import Fact, HostAddress

if TYPE_CHECKING:
    from vmdns.sources.worker import WorkerOutput
    from vmdns.windows.ip_helper import Adapter

# <linux/rtnetlink.h>: RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x4 | 0x10 | 0x100
_IFF_UP = 0x1
_TENTATIVE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED: cannot be bound yet
_IN_USE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT
_PROXY = 0x08  # NTF_PROXY: an address that the host answers for
_BUFFER = 1 << 20
INTERVAL_SECONDS = 0.05  # between reports; the first change after a quiet time is reported at once

POLL_SECONDS = 3.0
RETRY_SECONDS = 5.0  # after a failure
InterfaceAddress = tuple[str, str, int]  # its name, the address, and the length of its prefix
SOURCES = ("addresses", "neighbours")  # in this order: reading addresses finds the names of interfaces


class HostWatcher:
    """Reports the sources `addresses` and `neighbours` from its own thread."""

    def __init__(self, output: WorkerOutput) -> None:
        self._output = output
        self._troubles: dict[str, str] = {}
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        for one in (self._wake_reader, self._wake_writer):
            one.setblocking(False)

    def start(self) -> None:
        """Starts the thread, which reports everything and then each change."""
        threading.Thread(target=self._run, name="host network", daemon=True).start()

    def request_look(self, source: str) -> None:
        """Reads this source now, and confirms it. Called from another thread."""
        self._requests.put(source)
        with suppress(BlockingIOError):  # enough wake-ups are pending
            self._wake_writer.send(b"!")

    def _run(self) -> None:
        while True:
            try:
                with closing(open_tables()) as tables:
                    self._watch(tables)
            except Exception as error:
                for source in SOURCES:
                    self._report_trouble(source, error)
            time.sleep(RETRY_SECONDS)

    def _watch(self, tables: NetlinkTables | PolledTables) -> None:
        due = set(SOURCES)
        while True:
            requested: set[str] = set()
            with suppress(BlockingIOError):
                self._wake_reader.recv(4096)
            while not self._requests.empty():
                requested.add(self._requests.get())
            for source in SOURCES:
                if source in due | requested:
                    try:
                        self._output.report(source, tables.read(source))
                    except Exception as error:
                        self._report_trouble(source, error)
                    else:
                        self._report_trouble(source, None)
            for source in requested:
                self._output.confirm_look(source)
            failing = {source for source, text in self._troubles.items() if text}
            due = tables.wait(self._wake_reader, RETRY_SECONDS if failing else None) | failing

    def _report_trouble(self, source: str, error: Exception | None) -> None:
        text = f"the host's {source} cannot be read ({type(error).__name__}: {error})" if error else ""
        if text != self._troubles.get(source, ""):
            self._troubles[source] = text
            self._output.report_trouble(source, text)


def open_tables() -> NetlinkTables | PolledTables:
    """The tables of this system."""
    return NetlinkTables() if sys.platform == "linux" else PolledTables()


class NetlinkTables:
    """The kernel's tables. Raises ImportError where pyroute2 is missing, OSError where netlink is not allowed."""

    def __init__(self) -> None:
        # Takes 250 ms: only the thread that uses it waits for it.
        from pyroute2 import IPRoute
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        self._socket = _open_netlink()
        self._kernel = IPRoute()
        self._parse = MarshalRtnl().parse
        self._names: dict[int, str] = {}
        self._entries: dict[tuple[int, str], str] = {}  # (interface, address) -> MAC
        self._entries_current = False
        self._history = neighbours.NeighbourHistory()
        self._waited = float("-inf")

    def read(self, source: str) -> Mapping[str, Fact]:
        """Everything that the source has now. Raises an exception where it cannot be read."""
        if source == "addresses":
            return address_facts(self._read_addresses())
        if not self._entries_current:
            self._entries = {}
            for message in self._kernel.get_neighbours():
                self._update_entry(message)
            self._entries_current = True
        found = [
            neighbours.NeighbourEntry(self._names[index], mac, address)
            for (index, address), mac in self._entries.items()
            if index in self._names
        ]
        return self._history.facts(found, time.time())

    def wait(self, wake: socket.socket, seconds: float | None) -> set[str]:
        """Waits for changes, at most that long and until `wake` is readable. Returns the sources to read."""
        due: set[str] = set()
        while True:
            if due:
                seconds = max(0.0, self._waited + INTERVAL_SECONDS - time.monotonic())
            ready, _, _ = select.select([self._socket, wake], [], [], seconds)
            if self._socket in ready:
                due |= self._receive()
            if wake in ready:
                self._entries_current = False
            if wake in ready or not ready or seconds == 0.0:
                self._waited = time.monotonic()
                return due

    def close(self) -> None:
        self._kernel.close()
        self._socket.close()

    def _read_addresses(self) -> list[InterfaceAddress]:
        links = list(self._kernel.get_links())
        self._names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        up = {link["index"] for link in links if link["flags"] & _IFF_UP}
        return [
            # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has IFA_ADDRESS alone.
            (
                self._names[one["index"]],
                str(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")),
                one["prefixlen"],
            )
            for one in self._kernel.get_addr()
            if one["index"] in up and not one["flags"] & _TENTATIVE
        ]

    def _receive(self) -> set[str]:
        """Reads the pending messages, 1,000 at most. Returns the sources to read."""
        due: set[str] = set()
        for _ in range(1000):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._entries_current = False
                due = {"addresses", "neighbours"}
                continue
            for message in self._parse(data):
                if message["event"] not in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
                    due = {"addresses", "neighbours"}  # interfaces may have been renamed
                elif self._update_entry(message):
                    due.add("neighbours")
        return due

    def _update_entry(self, message: Any) -> bool:
        """Updates one entry of the neighbour table. Returns whether that changed it."""
        if message["family"] not in (socket.AF_INET, socket.AF_INET6) or message["flags"] & _PROXY:
            return False
        key = message["ifindex"], str(message.get_attr("NDA_DST"))
        mac = str(message.get_attr("NDA_LLADDR") or "").replace(":", "")
        before = self._entries.pop(key, "")
        if message["event"] == "RTM_NEWNEIGH" and message["state"] & _IN_USE and mac:
            self._entries[key] = mac
        return before != self._entries.get(key, "")


def _open_netlink() -> socket.socket:
    if sys.platform != "linux":
        raise NotImplementedError
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    one.setblocking(False)
    one.bind((0, _GROUPS))
    return one


class PolledTables:
    """The tables, read again every few seconds: of macOS as psutil and commands show them, of Windows by its API."""

    def __init__(self) -> None:
        self._history = neighbours.NeighbourHistory()
        self._names: dict[int, str] = {}  # of Windows' adapters, by their indexes
        self._changed, wake = socket.socketpair()
        self._parts = ExitStack()
        self._parts.enter_context(self._changed)
        self._parts.enter_context(wake)
        if sys.platform == "win32":
            from vmdns.windows.change_notification import watch_changes

            self._parts.callback(watch_changes(lambda: wake.send(b"!")))

    def read(self, source: str) -> Mapping[str, Fact]:
        """Everything that the source has now. Raises an exception where it cannot be read."""
        if source == "addresses":
            return self._read_addresses()
        return self._history.facts(self._read_neighbours(), time.time())

    def _read_addresses(self) -> Mapping[str, Fact]:
        if sys.platform == "win32":
            from vmdns.windows.ip_helper import read_adapters

            adapters = read_adapters()
            self._names = {index: one.name for one in adapters for index in (one.interface_index, one.interface_index6)}
            return adapter_facts(adapters)
        import psutil

        return address_facts(parse_psutil(psutil.net_if_addrs(), psutil.net_if_stats()))

    def _read_neighbours(self) -> list[neighbours.NeighbourEntry]:
        if sys.platform == "win32":
            from vmdns.windows.ip_helper import read_neighbour_table

            return neighbours.adapter_neighbours(read_neighbour_table(), self._names)
        return neighbours.read_neighbours()

    def wait(self, wake: socket.socket, seconds: float | None) -> set[str]:
        """Waits for a change or the next poll, and at most until `wake` is readable. Returns the sources to read."""
        ready, _, _ = select.select([wake, self._changed], [], [], POLL_SECONDS)
        if self._changed in ready:
            self._changed.recv(4096)
        return set() if ready == [wake] else set(SOURCES)

    def close(self) -> None:
        self._parts.close()


def address_facts(
    entries: Iterable[InterfaceAddress], aliases: Mapping[str, str] | None = None
) -> dict[str, HostAddress]:
    """The addresses that a socket can be bound to, without link-local ones, by their keys
    `address:<interface> <prefix>`. aliases maps interfaces to VirtualBox's names for them."""
    found = {}
    for interface, address, length in entries:
        try:
            at = ip_interface(f"{address}/{length}")
        except ValueError:
            continue
        if at.ip.is_link_local or at.ip.is_multicast or at.ip.is_unspecified:
            continue
        fact = HostAddress(interface, at.with_prefixlen, (aliases or {}).get(interface, ""))
        found[f"address:{fact.interface} {fact.prefix}"] = fact
    return dict(sorted(found.items()))


def adapter_facts(adapters: Iterable[Adapter]) -> dict[str, HostAddress]:
    """As `address_facts`, of Windows' adapters that are up."""
    from vmdns.windows.ip_helper import DEPRECATED, PREFERRED, UP

    up = [one for one in adapters if one.status == UP]
    entries = (
        (one.name, at.address.partition("%")[0], at.prefix_length)
        for one in up
        for at in one.addresses
        if at.state in (DEPRECATED, PREFERRED)
    )
    return address_facts(entries, {one.name: one.description for one in up})


def parse_psutil(addresses: Mapping[str, Iterable[Any]], stats: Mapping[str, Any]) -> list[InterfaceAddress]:
    """The addresses of interfaces that are up, from `psutil.net_if_addrs` and `psutil.net_if_stats`."""
    found = []
    for name, entries in addresses.items():
        if name in stats and not stats[name].isup:
            continue
        for one in entries:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                text = one.address.partition("%")[0]
                found.append((name, text, _prefix_length(text, one.netmask)))
    return found


def _prefix_length(address: str, mask: str | None) -> int:
    """The prefix length of a mask; that of a single address without one (a tunnel's)."""
    return int(ip_address(mask.partition("%")[0])).bit_count() if mask else ip_address(address).max_prefixlen
