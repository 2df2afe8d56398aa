"""Watches the host's addresses and neighbours on Linux with rtnetlink(7).

Two raw sockets receive the kernel's multicast groups. A change of links or addresses only means "read again". A change
of the neighbour table names the entry, and only that entry is updated, because reading a table of 1,000 takes 50 ms.
When the kernel dropped messages (ENOBUFS), everything is read again. pyroute2 takes 250 ms to import: only this thread
waits for it.
"""

from __future__ import annotations

import errno
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vmdns.sources import host_addresses as addresses
from vmdns.sources import neighbours
from vmdns.sources.worker_protocol import Report

# <linux/rtnetlink.h>: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR; RTMGRP_NEIGH
_LINK_GROUPS = 0x1 | 0x10 | 0x100
_NEIGHBOURS = 0x4
_IFF_UP = 0x1
_TENTATIVE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED: cannot be bound yet
_IN_USE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT
_PROXY = 0x08  # NTF_PROXY: an address that the host answers for
_BUFFER = 1 << 20
INTERVAL_SECONDS = 0.05  # between reports; the first change after a quiet time is reported at once
RETRY_SECONDS = 5.0  # after a failure


class NetlinkWatcher:
    """Reports the sources `addresses` and `neighbours` from its own thread.

    trouble receives a source and a sentence, '' once it works again; looked receives the source after the report that
    `look` requested.
    """

    def __init__(self, report: Report, trouble: Callable[[str, str], None], looked: Callable[[str], None]) -> None:
        self._report = report
        self._trouble = trouble
        self._looked = looked
        self._failed = False
        self._names: dict[int, str] = {}
        self._entries: dict[tuple[int, str], str] = {}  # (interface, address) -> MAC
        self._neighbours = neighbours.NeighbourHistory()
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        for one in (self._wake_reader, self._wake_writer):
            one.setblocking(False)

    def start(self) -> None:
        """Starts the thread, which reports everything and then each change."""
        threading.Thread(target=self._run, name="netlink", daemon=True).start()

    def look(self, source: str) -> None:
        """Reads this source now. Called from another thread."""
        self._requests.put(source)
        with suppress(BlockingIOError):  # enough wake-ups are pending
            self._wake_writer.send(b"!")

    def _run(self) -> None:
        while True:
            try:
                self._watch()
            except Exception as error:
                self._failed = True
                for source in ("addresses", "neighbours"):
                    self._trouble(source, f"the host's {source} cannot be watched ({type(error).__name__}: {error})")
                if isinstance(error, ImportError):
                    return
            time.sleep(RETRY_SECONDS)

    def _watch(self) -> None:
        from pyroute2 import IPRoute
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        with _listen(_LINK_GROUPS) as links, _listen(_NEIGHBOURS) as entries, IPRoute() as kernel:
            parse = MarshalRtnl().parse
            due = {"addresses", "neighbours"}
            requested: set[str] = set()
            changed = False
            reported = float("-inf")
            while True:
                if requested or time.monotonic() >= reported + INTERVAL_SECONDS:
                    if due or changed:
                        self._look(kernel, due)
                        reported = time.monotonic()
                    for source in requested:
                        self._looked(source)
                    due, requested, changed = set(), set(), False
                wait = max(0.0, reported + INTERVAL_SECONDS - time.monotonic()) if due or changed else None
                ready, _, _ = select.select([links, entries, self._wake_reader], [], [], wait)
                if links in ready:
                    _drain(links)
                    due.add("addresses")
                if entries in ready:
                    messages = _drain(entries)
                    if messages is None:
                        due.add("neighbours")
                    for message in [one for data in messages or () for one in parse(data)]:
                        changed = self._update_entry(message) or changed
                if self._wake_reader in ready:
                    self._wake_reader.recv(4096)
                    while not self._requests.empty():
                        requested.add(self._requests.get())
                    due |= requested & {"addresses", "neighbours"}

    # -- reports ----------------------------------------------------------------------------------------------

    def _look(self, kernel: Any, due: set[str]) -> None:
        if "addresses" in due:
            self._report_addresses(kernel)
        if "neighbours" in due:
            self._entries = {}
            for one in kernel.get_neighbours():
                self._update_entry(one)
        # Also after links were read again: interfaces may have been renamed.
        found = [
            neighbours.NeighbourEntry(self._names[index], mac, address)
            for (index, address), mac in self._entries.items()
            if index in self._names
        ]
        self._report("neighbours", self._neighbours.facts(found, time.time()))
        if self._failed:
            self._failed = False
            for source in ("addresses", "neighbours"):
                self._trouble(source, "")

    def _report_addresses(self, kernel: Any) -> None:
        links = list(kernel.get_links())
        self._names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        up = {link["index"] for link in links if link["flags"] & _IFF_UP}
        found = [
            # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has IFA_ADDRESS alone.
            addresses.InterfaceAddress(
                self._names[one["index"]],
                str(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")),
                one["prefixlen"],
            )
            for one in kernel.get_addr()
            if one["index"] in up and not one["flags"] & _TENTATIVE
        ]
        self._report("addresses", addresses.address_facts(found))

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


def _listen(groups: int) -> socket.socket:
    """A socket that receives these multicast groups of the kernel."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setblocking(False)
    sock.bind((0, groups))
    return sock


def _drain(sock: socket.socket) -> list[bytes] | None:
    """The pending messages, 1,000 at most; None if the kernel dropped some."""
    messages: list[bytes] = []
    lost = False
    for _ in range(1000):
        try:
            messages.append(sock.recv(65536))
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            lost = True
    return None if lost else messages
