"""The addresses that the server listens on, and what it does where it cannot."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from vmdns.config_types import Listen
from vmdns.host.port_holder import explain_bind_error
from vmdns.server.dns_server import DnsServer
from vmdns.server.listeners import Listener, bind

DEFAULT = (Listen("127.0.0.1", 53), Listen("::1", 53))
FALLBACK_PORTS = range(5300, 5400)
RETRY_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Wanted:
    """One wanted address and the listener for it.

    trouble says why it could not be bound, with the remedy; as long as it is set, binding is tried again. error is the
    errno that it explains.
    """

    listen: Listen
    listener: Listener | None = None
    trouble: str = ""
    error: int = 0
    fallback: Listener | None = None  # the port that served until then: `vmdns host` may have named it to this computer
    followed: bool = False  # wanted because a network has it, not by the configuration


class ListenAddresses:
    """Opens the wanted addresses, falls back from port 53 to 5300-5399, and takes the wanted port once it can."""

    def __init__(self, server: DnsServer, log: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._server = server
        self._log = log
        self._changed = changed
        self._wanted: list[Wanted] = []
        self._given: dict[Listen, Listener] = {}
        self._retry: asyncio.TimerHandle | None = None

    @property
    def own(self) -> frozenset[tuple[str, int]]:
        """The addresses and ports that are listened on."""
        return frozenset((one.address, one.port) for one in self._server.listeners)

    def give(self, listeners: Iterable[Listener]) -> None:
        """Sockets that a service manager opened: listened on as long as vmdns runs, and instead of the default."""
        self._given = {Listen(one.address, one.port): one for one in listeners}

    def want(self, listens: Iterable[Listen], guest_addresses: Iterable[str] = ()) -> None:
        """Listens on these. Where there are none: on the default, and on port 53 of guest_addresses, the addresses of
        the host that guests send queries to. Closes the other listeners and keeps those that are wanted still."""
        chosen = tuple(listens)
        default = not chosen
        followed = [Listen(address, 53) for address in guest_addresses] if default else []
        kept = {one.listen: one for one in self._wanted}
        before = self.own
        self._wanted = []
        for listen in dict.fromkeys((*(chosen or (() if self._given else DEFAULT)), *self._given, *followed)):
            one = kept.pop(listen, None) or Wanted(listen, followed=listen in followed)
            if one.listener is None:
                self._open(one, optional=default and listen.address == "::1")
            self._wanted.append(one)
        for old in kept.values():
            for listener in filter(None, (old.fallback, old.listener)):
                self._server.close(listener)
                self._log(f"no longer listening on {listener.address} port {listener.port}")
        self._schedule()
        if self.own != before:
            self._changed()

    def _open(self, one: Wanted, *, optional: bool) -> None:
        address, port = one.listen
        if one.listen in self._given:
            self._take(one, self._given[one.listen])
            return
        try:
            self._take(one, bind(address, port))
            return
        except OSError as error:
            if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return  # a host without IPv6
            self._explain(one, error)
            # Guests ask port 53 and no other.
            elsewhere = port == 53 and error.errno != errno.EADDRNOTAVAIL and not one.followed
        for other in FALLBACK_PORTS if elsewhere else ():
            try:
                self._take(one, bind(address, other))
                return
            except OSError:
                continue
        if elsewhere:
            self._log(f"no port of {FALLBACK_PORTS[0]}-{FALLBACK_PORTS[-1]} is free on {address} either")

    def _explain(self, one: Wanted, error: OSError) -> None:
        """Reports why the address cannot be bound, once for each kind of error."""
        if one.trouble and one.error == error.errno:
            return
        one.error = error.errno or 0
        one.trouble = explain_bind_error(error, *one.listen)
        self._log(one.trouble)

    def _take(self, one: Wanted, listener: Listener) -> None:
        one.fallback, one.listener = one.listener, listener
        self._server.open(listener)
        instead = f" instead of {one.listen.port}" if one.listen.port not in (0, listener.port) else ""
        self._log(f"listening on {listener.address} port {listener.port}{instead} (UDP and TCP)")

    def _schedule(self) -> None:
        """Tries every five seconds to bind what could not be bound: the user may have freed the port, allowed it, or
        added the address."""
        if self._retry is not None:
            self._retry.cancel()
        waiting = any(one.trouble for one in self._wanted)
        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again) if waiting else None

    def _try_again(self) -> None:
        before = self.own
        for one in self._wanted:
            if not one.trouble:
                continue
            try:
                listener = bind(*one.listen)
            except OSError as error:
                self._explain(one, error)
                continue
            one.trouble = ""
            self._take(one, listener)
        self._schedule()
        if self.own != before:
            self._changed()

    def resume(self) -> None:
        """After a suspend, tries at once to bind what could not be bound."""
        self._try_again()

    def status(self) -> list[dict[str, Any]]:
        """Each wanted address as JSON values."""
        return [
            {
                "address": one.listen.address,
                "port": one.listener.port if one.listener else one.listen.port,
                "state": "listening" if one.listener else "failed",
                "detail": one.trouble,
            }
            for one in self._wanted
            if one.listener or one.trouble
        ]

    def close(self) -> None:
        """No retry from now on; the server closes the listeners."""
        if self._retry is not None:
            self._retry.cancel()
