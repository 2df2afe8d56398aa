"""VirtualBox's settings files: VMs and networks (VirtualBox.xml), and one VM as it is powered off (.vbox).

VBoxManage takes the session lock of a powered-off VM to show it, and starting or changing the VM meanwhile fails with
"already locked by a session". Its settings file has the same data, needs no lock and costs a thousandth. VirtualBox
replaces these files as a whole, at once after each change, so a half-written one is never seen.
(Settings.cpp, MachineConfigFile::readMachine and readNetworkAdapters; the schema is VirtualBox-settings.xsd.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as xml

from vmdns.files import read_regular
from vmdns.sources.installation import local_path
from vmdns.sources.virtualbox_values import parse_extra, parse_timestamp, rule_sort_key
from vmdns.state.external_data import MAX_BYTES, find_name_servers, is_true, parse_xml
from vmdns.state.facts import Adapter, DhcpServer, HostInterface, Machine, NatNetwork, Network, PortForward

# The element for what an adapter is attached to, and the attribute with its name.
_KINDS = {
    "NAT": ("nat", ""), "NATNetwork": ("natnetwork", "name"), "BridgedInterface": ("bridged", "name"),
    "InternalNetwork": ("intnet", "name"), "HostOnlyInterface": ("hostonly", "name"),
    "HostOnlyNetwork": ("hostonly", "name"), "GenericInterface": ("generic", "driver"),
    "CloudNetwork": ("cloud", ""),
}  # fmt: skip


class InvalidSettingsFile(ValueError):
    """The file is not a settings file of VirtualBox, or only VirtualBox can read it (an encrypted VM)."""


class Registry(NamedTuple):
    """VirtualBox.xml: the settings file of each registered VM by UUID, and the networks."""

    paths: dict[str, Path]
    networks: xml.Element | None


def parse_registry(data: bytes, home: Path) -> Registry:
    """Parses VirtualBox.xml. Raises `InvalidSettingsFile`."""
    root = _tree(data)
    paths = {}
    for entry in root.iterfind("{*}Global/{*}MachineRegistry/{*}MachineEntry"):
        source, uuid = entry.get("src"), _uuid(entry)
        if source and uuid:
            paths[uuid] = home / local_path(source)
    return Registry(paths, root.find("{*}Global/{*}NetserviceRegistry"))


def read_registry(index: Path) -> Registry | None:
    """The content of VirtualBox.xml; empty if the file does not exist, None if it cannot be read."""
    try:
        return parse_registry(read_regular(index, MAX_BYTES), index.parent)
    except FileNotFoundError:
        return Registry({}, None)
    except (OSError, InvalidSettingsFile):
        return None


def is_registry_of(registry: Registry | None, listed: Collection[str]) -> bool:
    """Whether this can be the registry of the VBoxSVC whose `list vms` has these UUIDs: at least one VM is in both, or
    neither has any. VBoxManage connects to the running VBoxSVC, whatever its home."""
    if registry is None:
        return True
    return any(uuid in registry.paths for uuid in listed) if listed else not registry.paths


def read_networks(
    registry: Registry, adapter_mac: Callable[[str, int], str]
) -> Iterator[NatNetwork | DhcpServer | HostInterface]:
    """The host-only networks of macOS, NAT Networks and DHCP servers. adapter_mac finds the MAC of an adapter by the
    UUID or name of its VM and its slot: a fixed address may be that of an adapter."""
    yield from read_host_only_networks(registry)
    if registry.networks is None:
        return
    for one in registry.networks.iterfind("{*}NATNetworks/{*}NATNetwork"):
        rules = _rules(one.iterfind("{*}PortForwarding4/{*}Forwarding"))
        yield NatNetwork(one.get("networkName", ""), one.get("network", ""), is_true(one.get("enabled", "1")), rules)
    for one in registry.networks.iterfind("{*}DHCPServers/{*}DHCPServer"):
        configs = [
            (_fixed_mac(config, adapter_mac), config.get("fixedAddress")) for config in one.iterfind("{*}Config")
        ]
        yield DhcpServer(
            one.get("networkName", ""),
            one.get("IPAddress", ""),
            one.get("networkMask", ""),
            is_true(one.get("enabled", "1")),
            tuple(sorted({(mac, address) for mac, address in configs if mac and address})),
            find_name_servers(one),
        )


def read_host_only_networks(registry: Registry) -> Iterator[HostInterface]:
    """The enabled host-only networks of macOS, which VirtualBox has since 7.0 and has an API without events for.

    The host has the lowest address of each (HostOnlyNetworkImpl.cpp: getHostIP). One without a mask or an address is
    left out: VirtualBox cannot start a VM on it. (Settings.cpp: readHostOnlyNetworks)
    """
    if registry.networks is None:
        return
    for one in registry.networks.iterfind("{*}HostOnlyNetworks/{*}HostOnlyNetwork"):
        with suppress(ValueError):
            if is_true(one.get("enabled", "1")):
                at = IPv4Interface(f"{one.get('ipLower', '')}/{one.get('mask') or 'none'}")
                yield HostInterface(one.get("name", ""), at.with_prefixlen, vmnet=True)


def _fixed_mac(config: xml.Element, adapter_mac: Callable[[str, int], str]) -> str:
    name, slot = config.get("vm-name"), config.get("slot", "")
    if name:
        return adapter_mac(name, int(slot)) if re.fullmatch("[0-9]{1,2}", slot, re.ASCII) else ""
    return config.get("MACAddress", "").replace(":", "").lower()


def parse_machine(data: bytes) -> Machine:
    """A .vbox file: the VM with its settings, in a state of a VM that is not running. Raises `InvalidSettingsFile`."""
    root = _tree(data)
    element = root.find("{*}Machine")
    if element is None or not (uuid := _uuid(element)):
        raise InvalidSettingsFile("no Machine element with a UUID")
    extra = {item.get("name", ""): item.get("value", "") for item in element.iterfind("{*}ExtraData/{*}ExtraDataItem")}
    groups = tuple(group.get("name", "") for group in element.iterfind("{*}Groups/{*}Group"))
    version = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", root.get("version", ""))
    # Up to VirtualBox 5.0 a cable that is not mentioned is unplugged.
    cable = version is None or (int(version[1]), int(version[2])) >= (1, 16)
    try:
        adapters = sorted(_adapters(element, cable), key=lambda adapter: adapter.slot)
    except ValueError as error:
        raise InvalidSettingsFile(str(error)) from None
    return Machine(
        uuid=uuid,
        name=element.get("name", ""),
        state=_state(element),
        groups=groups or ("/",),
        adapters=tuple(adapters),
        **parse_extra(extra)._asdict(),
        state_changed=parse_timestamp(element.get("lastStateChange", "")),
    )


def _tree(data: bytes) -> xml.Element:
    try:
        return parse_xml(data)
    except ValueError as error:
        raise InvalidSettingsFile(str(error)) from None


def _uuid(element: xml.Element) -> str:
    return element.get("uuid", "").strip("{}").lower()


def _state(element: xml.Element) -> str:
    saved, aborted = element.get("stateFile"), is_true(element.get("aborted", ""))
    if saved:
        return "AbortedSaved" if aborted else "Saved"
    return "Aborted" if aborted else "PoweredOff"


def _adapters(element: xml.Element, cable: bool) -> Iterator[Adapter]:
    for one in element.iterfind("{*}Hardware/{*}Network/{*}Adapter"):
        if not is_true(one.get("enabled", "")):
            continue
        mode = next((child for child in one if _tag(child) in _KINDS), None)
        kind, attribute = _KINDS[_tag(mode)] if mode is not None else ("null", "")
        forwards = mode.iterfind("{*}Forwarding") if mode is not None and kind == "nat" else ()
        yield Adapter(
            slot=int(one.get("slot", "")),
            mac=one.get("MACAddress", "").lower(),
            network=Network(kind, mode.get(attribute, "") if mode is not None and attribute else ""),
            cable=is_true(one.get("cable", "true" if cable else "false")),
            forwards=_rules(forwards),
        )


def _rules(elements: Iterable[xml.Element]) -> tuple[PortForward, ...]:
    rules = []
    for element in elements:
        with suppress(ValueError):  # rules in an unknown form are left out
            rules.append(_rule(element))
    return tuple(sorted(rules, key=rule_sort_key))


def _rule(element: xml.Element) -> PortForward:
    return PortForward(
        name=element.get("name", ""),
        protocol="tcp" if element.get("proto") == "1" else "udp",
        host_address=element.get("hostip", ""),
        host_port=int(element.get("hostport", "0")),
        guest_address=element.get("guestip", ""),
        guest_port=int(element.get("guestport", "0")),
    )


def _tag(element: xml.Element) -> str:
    return element.tag.rpartition("}")[2]
