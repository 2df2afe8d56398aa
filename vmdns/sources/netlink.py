"""The host's addresses and neighbours on Linux: looked up once, then kept by what the kernel tells.

Two raw sockets hear the kernel's multicast groups (rtnetlink(7)), so that nothing wakes up while nothing happens.
A change of links or addresses only means "look again"; a change of the neighbour table names the entry, and a look at
a table of 1,000 takes a twentieth of a second, so the entry alone is taken over. Where the kernel dropped messages
(ENOBUFS), everything is looked at anew. pyroute2 takes a quarter of a second to import: only this thread waits for it.
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
from vmdns.sources import neighbour_table as neighbours
from vmdns.sources.worker_protocol import Report

# <linux/rtnetlink.h>: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR; RTMGRP_NEIGH
_PLACES = 0x1 | 0x10 | 0x100
_NEIGHBOURS = 0x4
_IFF_UP = 0x1
_TENTATIVE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED: cannot be bound
_IN_USE = 0x02 | 0x04 | 0x08 | 0x10 | 0x80  # NUD_REACHABLE, STALE, DELAY, PROBE, PERMANENT
_PROXY = 0x08  # NTF_PROXY: not a neighbour, but somebody the host answers for
_BUFFER = 1 << 20
PAUSE_SECONDS = 0.05  # between reports; the first after a quiet time is told at once
AGAIN_SECONDS = 5.0  # after a failure


class NetlinkWatcher:
    """Watches from a thread of its own; reports the sources `addresses` and `neighbours`.

    trouble receives a source and a sentence, '' once it is over; looked is called with the source after each look
    that `look` asked for, when what it found was told.
    """

    def __init__(self, report: Report, trouble: Callable[[str, str], None], looked: Callable[[str], None]) -> None:
        self._report = report
        self._trouble = trouble
        self._looked = looked
        self._failed = False
        self._names: dict[int, str] = {}
        self._entries: dict[tuple[int, str], str] = {}  # (interface, address) -> MAC
        self._neighbours = neighbours.Neighbours()
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ours, self._theirs = socket.socketpair()
        for one in (self._ours, self._theirs):
            one.setblocking(False)

    def start(self) -> None:
        """Begins to watch, and reports what is there."""
        threading.Thread(target=self._run, name="netlink", daemon=True).start()

    def look(self, source: str) -> None:
        """Called from another thread: look at this source at once."""
        self._asked.put(source)
        with suppress(BlockingIOError):  # it has been told often enough
            self._theirs.send(b"!")

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
            time.sleep(AGAIN_SECONDS)

    def _watch(self) -> None:
        from pyroute2 import IPRoute
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        with _listen(_PLACES) as places, _listen(_NEIGHBOURS) as entries, IPRoute() as kernel:
            parse = MarshalRtnl().parse
            due = {"addresses", "neighbours"}
            asked: set[str] = set()
            changed = False
            told = float("-inf")
            while True:
                if asked or time.monotonic() >= told + PAUSE_SECONDS:
                    if due or changed:
                        self._look(kernel, due)
                        told = time.monotonic()
                    for source in asked:
                        self._looked(source)
                    due, asked, changed = set(), set(), False
                wait = max(0.0, told + PAUSE_SECONDS - time.monotonic()) if due or changed else None
                ready, _, _ = select.select([places, entries, self._ours], [], [], wait)
                if places in ready:
                    _drain(places)
                    due.add("addresses")
                if entries in ready:
                    messages = _drain(entries)
                    if messages is None:
                        due.add("neighbours")
                    for message in [one for data in messages or () for one in parse(data)]:
                        changed = self._take(message) or changed
                if self._ours in ready:
                    self._ours.recv(4096)
                    while not self._asked.empty():
                        asked.add(self._asked.get())
                    due |= asked & {"addresses", "neighbours"}

    # -- looking ----------------------------------------------------------------------------------------------

    def _look(self, kernel: Any, due: set[str]) -> None:
        if "addresses" in due:
            self._look_at_places(kernel)
        if "neighbours" in due:
            self._entries = {}
            for one in kernel.get_neighbours():
                self._take(one)
        # Also after another look at the interfaces, which may have other names.
        found = [
            neighbours.Entry(self._names[index], mac, address)
            for (index, address), mac in self._entries.items()
            if index in self._names
        ]
        self._report("neighbours", self._neighbours.facts(found, time.time()))
        if self._failed:
            self._failed = False
            for source in ("addresses", "neighbours"):
                self._trouble(source, "")

    def _look_at_places(self, kernel: Any) -> None:
        links = list(kernel.get_links())
        self._names = {link["index"]: str(link.get_attr("IFLA_IFNAME")) for link in links}
        up = {link["index"] for link in links if link["flags"] & _IFF_UP}
        found = [
            # On a point-to-point link IFA_ADDRESS is the other end's; IPv6 has IFA_ADDRESS alone.
            addresses.Entry(
                self._names[one["index"]],
                str(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS")),
                one["prefixlen"],
            )
            for one in kernel.get_addr()
            if one["index"] in up and not one["flags"] & _TENTATIVE
        ]
        self._report("addresses", addresses.facts(found))

    def _take(self, message: Any) -> bool:
        """Takes over one entry of the neighbour table; whether that changed it."""
        if message["family"] not in (socket.AF_INET, socket.AF_INET6) or message["flags"] & _PROXY:
            return False
        key = message["ifindex"], str(message.get_attr("NDA_DST"))
        mac = str(message.get_attr("NDA_LLADDR") or "").replace(":", "")
        before = self._entries.pop(key, "")
        if message["event"] == "RTM_NEWNEIGH" and message["state"] & _IN_USE and mac:
            self._entries[key] = mac
        return before != self._entries.get(key, "")


def _listen(groups: int) -> socket.socket:
    """A socket that hears these groups of the kernel."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    sock.setblocking(False)
    sock.bind((0, groups))
    return sock


def _drain(sock: socket.socket) -> list[bytes] | None:
    """The messages that are there, 1,000 at most; None where some were lost."""
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
