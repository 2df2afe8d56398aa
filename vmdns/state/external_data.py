"""Parses what others write: the XML files of VirtualBox, and option 6 of its DHCP servers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address
from xml.etree import ElementTree as xml

MAX_BYTES = 16 * 1024 * 1024  # snapshots of a VM are kept in its settings file
MAX_DEPTH = 1000  # VirtualBox nests snapshots 250 deep (SETTINGS_SNAPSHOT_DEPTH_MAX), of two elements each
MAX_ELEMENTS = 500_000

NAME_SERVERS = "6"  # the DHCP option of RFC 2132 section 3.8
MAC_WILDCARD_FOR_ALL = "1", "*"  # DHCPGroupConditionType_MACWildcard, and its value in a group for all guests


class _Builder(xml.TreeBuilder):
    """Takes files as claims from outside: bounded, in UTF-8, without DTDs and entities."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.count = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> xml.Element:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH or self.count > MAX_ELEMENTS:
            raise ValueError("nested too deep, or too many elements")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> xml.Element:
        self.depth -= 1
        return super().end(tag)

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration")


def parse_xml(data: bytes) -> xml.Element:
    """The outermost element. Raises ValueError."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    # VirtualBox writes UTF-8. Any other declared encoding would be looked up among Python's codecs.
    parser = xml.XMLParser(target=_Builder(), encoding="utf-8")
    try:
        parser.feed(data)
        return parser.close()
    except xml.ParseError as error:
        raise ValueError(str(error)) from None


def find_name_servers(server: xml.Element) -> tuple[str, ...]:
    """The name servers that an ordinary guest gets from a DHCP server in VirtualBox.xml.

    Groups for all guests come first, in the order of their names; the first scope that has the option gives it, one
    that suppresses it ends the search (Config::getOptionsForClient of VirtualBox's Dhcpd/Config.cpp). Options of single
    VMs do not count.
    """
    groups = filter(_is_for_everyone, server.iterfind("{*}Group"))
    ordered = sorted(groups, key=lambda group: group.get("name", "").encode("utf-8", "surrogateescape"))
    for scope in (*ordered, *server.iterfind("{*}Options")):
        if NAME_SERVERS in re.findall("[0-9]+", scope.get("suppressedOptions", "")):
            return ()
        for option in scope.iterfind("{*}Option"):
            if option.get("name") == NAME_SERVERS and option.get("value"):
                return tuple(_addresses(option.get("value", "")))
    return ()


def _is_for_everyone(group: xml.Element) -> bool:
    conditions = [
        is_true(one.get("inclusive", ""))
        for one in group.iterfind("{*}Condition")
        if (one.get("type"), one.get("value")) == MAC_WILDCARD_FOR_ALL
    ]
    return bool(conditions) and all(conditions)  # a group that also excludes is not for every guest


def is_true(text: str) -> bool:
    """Whether an attribute of VirtualBox's is true."""
    return text in ("true", "1")


def _addresses(text: str) -> Iterable[str]:
    for word in re.split(r"[\s,]+", text):
        try:
            yield str(IPv4Address(word))
        except AddressValueError:  # the other encoding of VirtualBox's, raw bytes, is left out as well
            continue
