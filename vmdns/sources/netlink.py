"""The host's addresses and neighbours on Linux, by rtnetlink(7).

A raw socket receives the kernel's multicast groups. A change of links or addresses only means "read again". A change
of the neighbour table names the entry, and only that entry is updated, because reading a table of 1,000 takes 50 ms.
When the kernel dropped messages (ENOBUFS), everything is read again.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

from vmdns.sources.host_network import InterfaceAddress, address_facts
from vmdns.sources.neighbours import NeighbourEntry, NeighbourHistory
from vmdns.state.facts import Fact

# <linux/rtnetlink.h>: RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x4 | 0x10 | 0x100
_IFF_UP = 0x1
_TENTATIVE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED: cannot be bound yet
_IN_USE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT
_PROXY = 0x08  # NTF_PROXY: an address that the host answers for
_BUFFER = 1 << 20
INTERVAL_SECONDS = 0.05  # between reports; the first change after a quiet time is reported at once


class NetlinkTables:
    """The kernel's tables. Raises ImportError where pyroute2 is missing, OSError where netlink is not allowed."""

    def __init__(self) -> None:
        # Takes 250 ms: only the thread that uses it waits for it.
        from pyroute2 import IPRoute
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        self._kernel = IPRoute()
        self._parse = MarshalRtnl().parse
        self._names: dict[int, str] = {}
        self._entries: dict[tuple[int, str], str] = {}  # (interface, address) -> MAC
        self._entries_current = False
        self._history = NeighbourHistory()
        self._waited = float("-inf")

    def read(self, source: str) -> Mapping[str, Fact]:
        if source == "addresses":
            return address_facts(self._read_addresses())
        if not self._entries_current:
            self._entries = {}
            for message in self._kernel.get_neighbours():
                self._update_entry(message)
            self._entries_current = True
        found = [
            NeighbourEntry(self._names[index], mac, address)
            for (index, address), mac in self._entries.items()
            if index in self._names
        ]
        return self._history.facts(found, time.time())

    def wait(self, wake: socket.socket, seconds: float | None) -> set[str]:
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
