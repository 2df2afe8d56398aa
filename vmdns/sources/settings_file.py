"""VirtualBox's settings files: which VMs there are (VirtualBox.xml), and one VM as it is powered off (.vbox).

VBoxManage takes the session lock of a powered-off VM to show it, and starting or changing the VM meanwhile fails with
"already locked by a session". Its settings file has the same data, needs no lock and costs a thousandth. VirtualBox
replaces these files as a whole, so a half-written one is never seen.
(Settings.cpp, MachineConfigFile::readMachine and readNetworkAdapters; the schema is VirtualBox-settings.xsd.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as xml

from vmdns.sources.virtualbox_values import parse_extra, parse_timestamp, rule_sort_key
from vmdns.state.facts import Adapter, Machine, Network, PortForward
from vmdns.state.xml_tree import parse_xml

# The element for what an adapter is attached to, and the attribute with its name.
_KINDS = {
    "NAT": ("nat", ""), "NATNetwork": ("natnetwork", "name"), "BridgedInterface": ("bridged", "name"),
    "InternalNetwork": ("intnet", "name"), "HostOnlyInterface": ("hostonly", "name"),
    "HostOnlyNetwork": ("hostonlynetwork", "name"), "GenericInterface": ("generic", "driver"),
    "CloudNetwork": ("cloud", ""),
}  # fmt: skip


class InvalidSettingsFile(ValueError):
    """The file is not a settings file of VirtualBox, or only VirtualBox can read it (an encrypted VM)."""


def parse_registry(data: bytes, home: Path) -> dict[str, Path]:
    """VirtualBox.xml: UUID -> settings file of each registered VM. Raises `InvalidSettingsFile`."""
    found = {}
    for entry in _tree(data).iterfind("{*}Global/{*}MachineRegistry/{*}MachineEntry"):
        source, uuid = entry.get("src"), _uuid(entry)
        if source and uuid:
            found[uuid] = home / source
    return found


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


def _true(text: str) -> bool:
    return text in ("true", "1")


def _state(element: xml.Element) -> str:
    saved, aborted = element.get("stateFile"), _true(element.get("aborted", ""))
    if saved:
        return "AbortedSaved" if aborted else "Saved"
    return "Aborted" if aborted else "PoweredOff"


def _adapters(element: xml.Element, cable: bool) -> Iterator[Adapter]:
    for one in element.iterfind("{*}Hardware/{*}Network/{*}Adapter"):
        if not _true(one.get("enabled", "")):
            continue
        mode = next((child for child in one if _tag(child) in _KINDS), None)
        kind, attribute = _KINDS[_tag(mode)] if mode is not None else ("null", "")
        forwards = mode.iterfind("{*}Forwarding") if mode is not None and kind == "nat" else ()
        yield Adapter(
            slot=int(one.get("slot", "")),
            mac=one.get("MACAddress", "").lower(),
            network=Network(kind, mode.get(attribute, "") if mode is not None and attribute else ""),
            cable=_true(one.get("cable", "true" if cable else "false")),
            forwards=tuple(sorted(map(_rule, forwards), key=rule_sort_key)),
        )


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
