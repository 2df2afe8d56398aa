"""Reads VMs and networks from VirtualBox's API objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

from vmdns.sources.virtualbox_api import ACCESS_DENIED, OBJECT_NOT_FOUND, Api
from vmdns.sources.virtualbox_values import (
    EXTRA_KEYS,
    GUEST_PROPERTIES,
    parse_extra,
    parse_guest_reports,
    parse_nat_rule,
    parse_network_rule,
    rule_sort_key,
)
from vmdns.state.external_data import EVERYONE, NAME_SERVERS, DhcpScope, find_name_servers
from vmdns.state.facts import Adapter, DhcpServer, Fact, HostInterface, Machine, NatNetwork, Network, PortForward

_MAX_ADAPTERS = 36  # of the ICH9 chipset; PIIX3 has 8
_KINDS = {
    "NAT": "nat", "Bridged": "bridged", "Internal": "intnet", "HostOnly": "hostonly", "Generic": "generic",
    "NATNetwork": "natnetwork", "Cloud": "cloud", "HostOnlyNetwork": "hostonlynetwork",
}  # fmt: skip
_NAMES = {
    "natnetwork": "NATNetwork", "bridged": "bridgedInterface", "intnet": "internalNetwork",
    "hostonly": "hostOnlyInterface", "generic": "genericDriver", "hostonlynetwork": "hostOnlyNetwork",
}  # fmt: skip


def read_machine(api: Api, raw: Any, uuid: str, before: Fact | None) -> Machine | None:
    """Reads a VM: None where it no longer exists, `before` where it cannot be read now. Raises `VirtualBoxLost`.

    Adapters take half of the calls, so they are read for online VMs only.
    """
    try:
        extra = set(raw.getExtraDataKeys())
        found = Machine(
            uuid=uuid,
            name=str(raw.name),
            groups=tuple(str(group) for group in api.array(raw, "groups")),
            **parse_extra({key: str(raw.getExtraData(key)) for key in EXTRA_KEYS if key in extra})._asdict(),
        )
        found = read_state(api, raw, found)
        return replace(found, adapters=tuple(_adapters(api, raw))) if found.online else found
    except Exception as error:
        api.check(error)
        if api.code(error) == OBJECT_NOT_FOUND:
            return None
        if api.code(error) == ACCESS_DENIED:
            return Machine(uuid, "", accessible=False)
        return before if isinstance(before, Machine) else None


def read_state(api: Api, raw: Any, found: Machine) -> Machine:
    """Reads only what changes most: the state, and the Guest Additions reports of an online VM."""
    changed = float(int(raw.lastStateChange) // 1000)  # VirtualBox gives milliseconds
    found = replace(found, state=api.states.get(raw.state, ""), state_changed=changed, reports=())
    if not found.online:
        return replace(found, adapters=())
    names, values, stamps, _flags = raw.enumerateGuestProperties(GUEST_PROPERTIES)
    properties = {str(n): (str(v), int(t) / 1e9) for n, v, t in zip(names, values, stamps, strict=True)}
    return replace(found, reports=parse_guest_reports(properties, found.state))


def _adapters(api: Api, raw: Any) -> Iterable[Adapter]:
    for slot in range(_MAX_ADAPTERS):
        try:
            adapter = raw.getNetworkAdapter(slot)
        except Exception as error:
            api.check(error)
            return  # the chipset has no more of them
        if not adapter.enabled:
            continue
        attachment = api.attachments.get(adapter.attachmentType, "Null")
        kind = _KINDS.get(attachment, "null")
        attribute = _NAMES.get(kind)
        forwards: tuple[PortForward, ...] = ()
        if kind == "nat":
            rules = api.array(adapter.NATEngine, "redirects")
            forwards = _rules(rules, parse_nat_rule)
        yield Adapter(
            slot=slot,
            mac=str(adapter.MACAddress).lower(),
            network=Network(kind, str(getattr(adapter, attribute)) if attribute else ""),
            cable=bool(adapter.cableConnected),
            forwards=forwards,
        )


def read_networks(api: Api) -> list[Fact]:
    """Reads NAT Networks and DHCP servers. Raises what the API raises."""
    facts: list[Fact] = []
    for raw in api.array(api.vbox, "NATNetworks"):
        rules = _rules(api.array(raw, "portForwardRules4"), parse_network_rule)
        facts.append(NatNetwork(str(raw.networkName), str(raw.network), bool(raw.enabled), rules))
    for raw in api.array(api.vbox, "DHCPServers"):
        fixed = tuple(sorted(set(_fixed(api, raw))))
        facts.append(
            DhcpServer(
                str(raw.networkName),
                str(raw.IPAddress),
                str(raw.networkMask),
                bool(raw.enabled),
                fixed,
                find_name_servers(_scope(api, raw.globalConfig), _groups_for_everyone(api, raw)),
            )
        )
    return facts


def _groups_for_everyone(api: Api, raw: Any) -> Iterator[DhcpScope]:
    for group in api.array(raw, "groupConfigs"):
        stars = [
            bool(one.inclusive)
            for one in api.array(group, "conditions")
            if one.type == api.mac_wildcard and str(one.value) == EVERYONE
        ]
        if stars and all(stars):  # a group that also excludes is not for every guest
            yield _scope(api, group, str(group.name))


def _scope(api: Api, config: Any, name: str = "") -> DhcpScope:
    values, numbers, _encodings = config.getAllOptions()
    options = {int(number): str(value) for number, value in zip(numbers, values, strict=True)}
    suppressed = [int(one) for one in api.array(config, "suppressedOptions")]
    return DhcpScope(name, options.get(NAME_SERVERS, ""), NAME_SERVERS in suppressed)


def _fixed(api: Api, raw: Any) -> Iterator[tuple[str, str]]:
    for one in api.array(raw, "individualConfigs"):
        try:
            mac, address = str(one.MACAddress).replace(":", "").lower(), str(one.fixedAddress)
        except Exception as error:  # the MAC of an adapter that is disabled cannot be read
            api.check(error)
            continue
        if mac and address:
            yield mac, address


def read_interfaces(api: Api) -> list[Fact]:
    """Reads the host's addresses on host-only interfaces. Takes VBoxSVC a tenth of a second."""
    return [
        HostInterface(str(raw.name), _prefix(str(raw.IPAddress), str(raw.networkMask)))
        for raw in api.array(api.vbox.host, "networkInterfaces")
        if raw.interfaceType == api.host_only and raw.IPAddress
    ]


def _rules(texts: Iterable[Any], parse: Callable[[str], PortForward]) -> tuple[PortForward, ...]:
    return tuple(sorted(_parse_all(texts, parse), key=rule_sort_key))


def _parse_all(texts: Iterable[Any], parse: Callable[[str], PortForward]) -> Iterator[PortForward]:
    for text in texts:
        with suppress(ValueError):  # rules in an unknown form are left out
            yield parse(str(text))


def _prefix(address: str, mask: str) -> str:
    return IPv4Interface(f"{address}/{mask}").with_prefixlen
