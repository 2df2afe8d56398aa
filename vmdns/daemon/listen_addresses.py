"""The addresses that the server listens on, and what it does where it cannot."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vmdns.daemon.process import Log
from vmdns.host.port_holder import explain_bind_error
from vmdns.host.system_settings import ListenAddress
from vmdns.server.dns_server import DnsServer
from vmdns.server.listeners import Listener, bind
from vmdns.server.wildcard import bind_wildcard

DEFAULT = (ListenAddress("127.0.0.1", 53), ListenAddress("::1", 53))
FALLBACK_PORTS = range(5300, 5400)
RETRY_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class WantedAddress:
    """One wanted address and port, with its listeners: one at a fallback port stays open, because `vmdns host` may have
    named it to this computer. guests: it is wanted because a network of guests has it. trouble says why it could not be
    bound, with the remedy; error is the errno that it explains."""

    listen: ListenAddress
    guests: bool
    listeners: list[Listener] = field(default_factory=list)
    trouble: str = ""
    error: int | None = None


class ListenAddresses:
    """Opens the wanted addresses, falls back from port 53 to 5300-5399, and takes the wanted port once it can.

    changed is called after a retry that opened one.
    """

    def __init__(self, server: DnsServer, log: Log, changed: Callable[[], None]) -> None:
        self._server = server
        self._log = log
        self._changed = changed
        self._request: object = None
        self._binding = "auto"
        self._wanted: dict[ListenAddress, WantedAddress] = {}
        self._given: dict[ListenAddress, Listener] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def own(self) -> frozenset[tuple[str, int]]:
        """The addresses and ports that are listened on."""
        return frozenset((one.address, one.port) for one in self._server.listeners)

    def give(self, listeners: Iterable[Listener]) -> None:
        """Sockets that a service manager opened: listened on as long as vmdns runs, and instead of the default."""
        self._given = {ListenAddress(one.address, one.port): one for one in listeners}

    def want(
        self, listens: tuple[ListenAddress, ...], guest_addresses: tuple[str, ...] = (), binding: str = "auto"
    ) -> None:
        """Listens on these. Where there are none: on the default, and on port 53 of guest_addresses, the addresses of
        the host that guests send queries to. Closes the other listeners and keeps those that are wanted still.

        binding: whether sockets are bound to each address, or to all addresses at once (`Config.bind`).
        """
        if self._request == (listens, guest_addresses, binding):
            return
        self._request = listens, guest_addresses, binding
        guests = () if listens else tuple(ListenAddress(address, 53) for address in guest_addresses)
        default = () if self._given else DEFAULT
        before = self._wanted
        self._wanted = {
            listen: before.get(listen) or WantedAddress(listen, guests=listen in guests)
            for listen in (*(listens or default), *self._given, *guests)
        }
        for listen, one in before.items():
            if listen not in self._wanted or (binding != self._binding and listen not in self._given):
                for listener in one.listeners:
                    self._server.close(listener)
                    self._log(f"no longer listening on {listener.address} port {listener.port}")
                one.listeners = []
        self._binding = binding
        self._open(optional=() if listens else DEFAULT[1:])

    def _open(self, optional: tuple[ListenAddress, ...] = ()) -> None:
        """Binds what is not bound yet, and tries again every five seconds where that fails: the user may free the port,
        allow it, or add the address. Logs each kind of failure once, for all addresses that have it."""
        places: dict[str, list[str]] = {}
        opened: list[str] = []
        for one in tuple(self._wanted.values()):
            if one.listeners and not one.trouble:
                continue
            address, port = one.listen
            try:
                opened.append(self._take(one, self._given.get(one.listen) or self._bind(address, port)))
                one.trouble = ""
            except OSError as error:
                if one.listen in optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    del self._wanted[one.listen]  # a host without IPv6
                elif error.errno != one.error:
                    one.trouble, one.error = explain_bind_error(error, address, port), error.errno
                    place = f"{address} port {port}"
                    places.setdefault(one.trouble.removeprefix(f"{place} "), []).append(place)
                    # Guests send queries to port 53 and no other.
                    if port == 53 and error.errno != errno.EADDRNOTAVAIL and not one.guests and not one.listeners:
                        opened.append(self._fall_back(one))
        for reason, (first, *others) in places.items():
            also = f" (also {', '.join(others)})" if others else ""
            self._log(f"{first}{also} {reason}")
        for line in opened:
            self._log(line)
        if self._retry is not None:
            self._retry.cancel()
        failing = any(one.trouble for one in self._wanted.values())
        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self.retry) if failing else None

    def _fall_back(self, one: WantedAddress) -> str:
        for port in FALLBACK_PORTS:
            try:
                return self._take(one, self._bind(one.listen.address, port))
            except OSError:
                continue
        return f"no port of {FALLBACK_PORTS[0]}-{FALLBACK_PORTS[-1]} is free on {one.listen.address} either"

    def _bind(self, address: str, port: int) -> Listener:
        if self._binding == "wildcard" or (self._binding == "auto" and needs_wildcard(port)):
            return bind_wildcard(address, port, self._server.listeners)
        return bind(address, port)

    def _take(self, one: WantedAddress, listener: Listener) -> str:
        one.listeners.append(listener)
        self._server.open(listener)
        instead = f" instead of {one.listen.port}" if one.listen.port not in (0, listener.port) else ""
        return f"listening on {listener.address} port {listener.port}{instead} (UDP and TCP)"

    def retry(self) -> None:
        """Tries now to bind what could not be bound."""
        before = self.own
        self._open()
        if self.own != before:
            self._changed()

    def status(self) -> list[dict[str, Any]]:
        """Each wanted address as JSON values."""
        return [
            {
                "address": one.listen.address,
                "port": one.listeners[-1].port if one.listeners else one.listen.port,
                "state": "listening" if one.listeners else "failed",
                "detail": one.trouble,
            }
            for one in self._wanted.values()
            if one.listeners or one.trouble
        ]

    def close(self) -> None:
        """No retry from now on; the server closes the listeners."""
        if self._retry is not None:
            self._retry.cancel()


def needs_wildcard(port: int) -> bool:
    """Whether this user may bind the port to all addresses at once only: below 1024, an ordinary user of macOS."""
    return sys.platform == "darwin" and 0 < port < 1024 and os.geteuid() != 0
