"""Which names with which addresses multicast DNS answers for on which link of the host."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Generator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from types import MappingProxyType
from typing import NamedTuple

import idna

from vmdns.core.model import Network
from vmdns.core.name import labels, to_wire
from vmdns.core.naming import RESERVED
from vmdns.core.snapshot import Guest, Snapshot
from vmdns.core.view import INNER, Ways

LOCAL = to_wire("local")


class Link(NamedTuple):
    """One interface of the host: its addresses, and the names (wire form, lower case) that are answered for on it.

    pointers are the names that addresses point to. Without names, others on the link are only asked. guests_only: only
    guests of this host are on it.
    """

    prefixes: tuple[IPv4Interface | IPv6Interface, ...]
    names: dict[bytes, tuple[str, ...]]
    pointers: Mapping[str, bytes] = MappingProxyType({})
    guests_only: bool = False

    def holds(self, address: str) -> bool:
        """Whether the address is on this link; one of IPv6 that is valid on a link alone always is."""
        at = _parsed(address)
        return any(at in prefix.network for prefix in self.prefixes) or (at.version == 6 and at.is_link_local)


class Told(NamedTuple):
    """What is told otherwise on a link: the addresses of names, and the names of addresses; none where one is gone."""

    names: dict[bytes, tuple[str, ...]]
    pointers: dict[str, bytes | None]


@lru_cache(maxsize=16384)
def _parsed(address: str) -> IPv4Address | IPv6Address:
    return ip_address(address.partition("%")[0])


class Links:
    """The links, kept up as VMs change. relay: those too where no VM is, to ask others there."""

    def __init__(self, relay: bool) -> None:
        self.relay = relay
        self.found: dict[str, Link] = {}
        self._kinds: tuple[Ways, str, tuple[bytes, ...]] | None = None
        self._links: dict[str, _Kept] = {}

    def steps(self, snapshot: Snapshot, moved: Collection[str] | None) -> Generator[None, None, dict[str, Told]]:
        """Takes a snapshot in which these VMs (by UUID) are other ones, None for possibly all, in small steps.

        Returns what is told otherwise, by interface. Steps that are not taken to their end have to be followed by some
        for all VMs.
        """
        kinds = snapshot.ways, snapshot.lan, snapshot.own
        if moved is None or kinds != self._kinds:
            before, self._links = self._links, _links(snapshot, self.relay)
            moved = list(snapshot.by_uuid)
        else:
            before = self._links
        self._kinds = None
        told: dict[str, Told] = {}
        for interface, kept in self._links.items():
            names: dict[bytes, tuple[str, ...]] = {}
            addresses: dict[str, None] = {}
            for uuid in moved:
                kept.forget(uuid, names, addresses)
                yield
            for uuid in moved:
                guest = snapshot.by_uuid.get(uuid)
                if guest is not None:
                    kept.learn(guest, snapshot, names, addresses)
                yield
            was = before.get(interface)
            told[interface] = yield from kept.differing(names, addresses, was if was is not kept else None)
        self.found = {interface: kept.link for interface, kept in self._links.items()}
        self._kinds = kinds
        return told


class _Kept:
    """One link, and what each VM has to do with it. network is None where others are only asked."""

    def __init__(self, snapshot: Snapshot, network: Network | None, link: Link) -> None:
        self._pointers: dict[str, bytes] = {}
        self.link = link._replace(pointers=self._pointers)
        self._network = network
        self._same = lru_cache(maxsize=None)(
            lambda other: network is not None and snapshot.ways.same_link(network, other)
        )
        self._by_uuid: dict[str, tuple[tuple[bytes, ...], tuple[str, ...]]] = {}
        self._holders: dict[str, list[tuple[str, bytes]]] = {}  # by address: VMs that have it, each with its first name

    def forget(self, uuid: str, names: dict[bytes, tuple[str, ...]], addresses: dict[str, None]) -> None:
        gone, had = self._by_uuid.pop(uuid, ((), ()))
        for name in gone:
            names.setdefault(name, self.link.names.pop(name, ()))
        for address in had:
            addresses[address] = None
            left = [one for one in self._holders[address] if one[0] != uuid]
            if left:
                self._holders[address] = left
            else:
                del self._holders[address]

    def learn(
        self, guest: Guest, snapshot: Snapshot, names: dict[bytes, tuple[str, ...]], addresses: dict[str, None]
    ) -> None:
        had = tuple(
            dict.fromkeys(
                one.address for one in guest.addresses if self._same(one.network) and self.link.holds(one.address)
            )
        )
        own = tuple(_local_names(guest, snapshot)) if had else ()
        if not own:
            return
        self._by_uuid[guest.machine.uuid] = own, had
        for name in own:
            names.setdefault(name, ())
            self.link.names[name] = had
        for address in had:
            addresses[address] = None
            insort(self._holders.setdefault(address, []), (guest.machine.uuid, own[0]))

    def differing(
        self, names: dict[bytes, tuple[str, ...]], addresses: dict[str, None], was: _Kept | None
    ) -> Generator[None, None, Told]:
        """What of these is other than before: names have what they had; was: the link before, where it is a new one."""
        link, told = self.link, Told({}, {})
        had = names if was is None else was.link.names
        pointed = link.pointers if was is None else was.link.pointers
        for name in dict.fromkeys((*names, *had)) if was is not None else names:
            now = link.names.get(name, ())
            if now != had.get(name, ()):
                told.names[name] = now
            yield
        for address in dict.fromkeys((*addresses, *pointed)) if was is not None else addresses:
            holders = self._holders.get(address)
            first = holders[0][1] if holders else None
            if first != pointed.get(address):
                told.pointers[address] = first
            if holders:
                self._pointers[address] = holders[0][1]
            else:
                self._pointers.pop(address, None)
            yield
        return told


def links(snapshot: Snapshot, relay: bool) -> dict[str, Link]:
    """The links by interface, made at once."""
    made = Links(relay)
    for _ in made.steps(snapshot, None):
        pass
    return made.found


def bare(snapshot: Snapshot, relay: bool) -> dict[str, Link]:
    """The links on which others are only asked."""
    return {interface: kept.link for interface, kept in _links(snapshot, relay).items()}


def _links(snapshot: Snapshot, relay: bool) -> dict[str, _Kept]:
    """The links without their names.

    Only names of two labels below `local`, each with its addresses of that very network (RFC 6762 sections 3 and 14).
    """
    ways = snapshot.ways
    prefixes: dict[str, list[IPv4Interface | IPv6Interface]] = {}
    for place in ways.places:
        if not place.at.ip.is_loopback and place.at.network.num_addresses > 1:
            prefixes.setdefault(place.interface, []).append(place.at)
    found: dict[str, _Kept] = {}
    for interface, here in prefixes.items():
        if all(one.version == 6 for one in here):
            continue
        network = ways.networks.get(interface)
        if network is not None and not (network.kind == "bridged" and snapshot.lan == "off"):
            guests_only = network.kind != "bridged"
            found[interface] = _Kept(snapshot, network, Link(tuple(here), {}, guests_only=guests_only))
        elif relay and not INNER.match(interface):
            found[interface] = _Kept(snapshot, None, Link(tuple(here), {}))
    return found


def _local_names(guest: Guest, snapshot: Snapshot) -> list[bytes]:
    found = []
    for relative in guest.named.names:
        name = to_wire(".".join((*relative, "local")))
        if len(relative) == 1 and snapshot.owned.get(name) == guest.machine.uuid:
            found.append(name)
            if relative[0].startswith("xn--"):
                found.append(to_wire(f"{idna.ulabel(relative[0])}.local"))  # RFC 6762 section 16: UTF-8 as it is
    return found


def may_ask(name: bytes) -> bool:
    """Whether others on a link may be asked for this name: two labels below `local`, no service, and none of the names
    that a stranger must not have for guests either (`wpad`)."""
    parts = labels(name)
    if len(parts) != 2 or parts[1] != b"local" or parts[0].startswith(b"_"):
        return False
    return parts[0].decode("latin-1") not in RESERVED
