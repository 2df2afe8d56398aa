"""Parses NAT Networks and DHCP servers from VirtualBox.xml, which is never translated.

VirtualBox replaces the file as a whole with each change, before the call that made the change returns
(VirtualBox::i_saveSettings; Settings.cpp: buildDHCPServers, readDHCPServers, buildNATNetworks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any
from xml.etree import ElementTree as xml

from vmdns.state.external_data import EVERYONE, NAME_SERVERS, DhcpScope, find_name_servers
from vmdns.state.xml_tree import parse_xml

_REGISTRY = "{*}Global/{*}NetserviceRegistry/"
_MAC_WILDCARD = "1"  # DHCPGroupConditionType_MACWildcard


@dataclass(frozen=True, slots=True)
class NatNetworkSettings:
    """A NAT Network. dhcp: whether it has a DHCP server; loopback: offset from its first address to the one that
    VirtualBox up to 7.1 maps to the host's 127.0.0.1 (0 for none)."""

    name: str
    network: IPv4Network
    enabled: bool = True
    dhcp: bool = True
    loopback: int = 0


@dataclass(frozen=True, slots=True)
class DhcpServerSettings:
    """A DHCP server, by the name of its network: options of the whole server as VirtualBox's text, and groups.

    A group for all guests is a mapping from option number to VirtualBox's text; any other is {"else": its XML}.
    others lists elements for single guests.
    """

    network: str
    address: str
    mask: str
    lower: str
    upper: str
    enabled: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def name_servers(self) -> tuple[str, ...]:
        """The name servers that an ordinary guest gets."""
        number = str(NAME_SERVERS)
        whole = DhcpScope(value=self.options.get(number, ""))
        return find_name_servers(whole, (DhcpScope(name, group.get(number, "")) for name, group in self.groups.items()))


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The networks in VirtualBox.xml: NAT Networks in their order, and DHCP servers by the network's name."""

    nat: tuple[NatNetworkSettings, ...] = ()
    servers: Mapping[str, DhcpServerSettings] = field(default_factory=dict)


def parse_networks(data: bytes) -> NetworkSettings:
    """Parses VirtualBox.xml. Raises ValueError for anything else."""
    root = parse_xml(data)
    nat = [_nat(one) for one in root.iterfind(_REGISTRY + "{*}NATNetworks/{*}NATNetwork")]
    servers = [_server(one) for one in root.iterfind(_REGISTRY + "{*}DHCPServers/{*}DHCPServer")]
    return NetworkSettings(tuple(one for one in nat if one is not None), {one.network: one for one in servers})


def _nat(element: xml.Element) -> NatNetworkSettings | None:
    try:
        network = IPv4Network(element.get("network", ""), strict=False)
    except ValueError:
        return None
    loopback = next(
        (one for one in element.iterfind("{*}Mappings/{*}Loopback4") if one.get("address") == "127.0.0.1"), None
    )
    offset = loopback.get("offset", "") if loopback is not None else ""
    return NatNetworkSettings(
        name=element.get("networkName", ""),
        network=network,
        enabled=_true(element.get("enabled", "1")),
        dhcp=_true(element.get("needDhcp", "1")),
        loopback=int(offset) if offset.isdecimal() and int(offset) < network.num_addresses else 0,
    )


def _server(element: xml.Element) -> DhcpServerSettings:
    groups, others = {}, []
    for child in element:
        if _tag(child) == "Group":
            groups[child.get("name", "")] = _group(child)
        elif _tag(child) != "Options":
            others.append(" ".join((_tag(child), child.get("MACAddress", ""), child.get("vm-name", ""))).strip())
    return DhcpServerSettings(
        network=element.get("networkName", ""),
        address=element.get("IPAddress", ""),
        mask=element.get("networkMask", ""),
        lower=element.get("lowerIP", ""),
        upper=element.get("upperIP", ""),
        enabled=_true(element.get("enabled", "1")),
        options={one.get("name", ""): one.get("value", "") for one in element.iterfind("{*}Options/{*}Option")},
        groups=groups,
        others=tuple(others),
    )


def _group(element: xml.Element) -> dict[str, str]:
    options: dict[str, str] = {}
    conditions = []
    plain = set(element.keys()) <= {"name"}
    for child in element:
        if _tag(child) == "Option":
            plain = plain and child.get("encoding", "0") == "0"
            options[child.get("name", "")] = child.get("value", "")
        else:
            plain = plain and _tag(child) == "Condition"
            conditions.append((_true(child.get("inclusive", "")), child.get("type"), child.get("value")))
    if plain and conditions == [(True, _MAC_WILDCARD, EVERYONE)]:
        return options
    return {"else": xml.tostring(element, encoding="unicode").strip()}


def parse_started_group(data: bytes, group: str) -> dict[str, str] | None:
    """The options of a group in the configuration file with which VirtualBox started a DHCP server; None without that
    group. Raises ValueError for anything else (DHCPServer::i_writeDhcpdConfig)."""
    for one in parse_xml(data).iterfind("Group"):
        if one.get("name") == group:
            return {option.get("name", ""): option.get("value", "") for option in one.iterfind("Option")}
    return None


def find_group(servers: Mapping[str, DhcpServerSettings], network: str, group: str) -> dict[str, Any] | None:
    """A group of the DHCP server of a network, as a JSON value; None without one."""
    server = servers.get(network)
    found = server.groups.get(group) if server is not None else None
    return None if found is None else dict(found)


def parse_address(text: str) -> IPv4Address | None:
    """An IPv4 address; None for anything else."""
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _true(text: str) -> bool:
    return text in ("1", "true")


def _tag(element: xml.Element) -> str:
    return element.tag.rpartition("}")[2]
