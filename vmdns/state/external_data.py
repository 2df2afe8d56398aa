"""Parses what others write: the XML files of VirtualBox, and option 6 of its DHCP servers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from xml.etree import ElementTree as xml

MAX_BYTES = 16 * 1024 * 1024  # snapshots of a VM are kept in its settings file
MAX_DEPTH = 1000  # VirtualBox nests snapshots 250 deep (SETTINGS_SNAPSHOT_DEPTH_MAX), of two elements each
MAX_ELEMENTS = 500_000

NAME_SERVERS = 6  # the DHCP option of RFC 2132 section 3.8
EVERYONE = "*"  # the MAC wildcard of a group for all guests


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


@dataclass(frozen=True, slots=True)
class DhcpScope:
    """Option 6 of a whole DHCP server (name is empty) or of one group as VirtualBox's text, '' where it has none."""

    name: str = ""
    value: str = ""
    suppressed: bool = False


def find_name_servers(whole: DhcpScope, everyone: Iterable[DhcpScope]) -> tuple[str, ...]:
    """The name servers that an ordinary guest gets; everyone are the groups with a MAC wildcard `*`, in any order.

    Groups come first, in the order of their names; the first scope that has the option gives it, one that suppresses it
    ends the search (Config::getOptionsForClient of VirtualBox's Dhcpd/Config.cpp). Options of single VMs do not count.
    """
    for scope in (*sorted(everyone, key=lambda one: one.name.encode("utf-8", "surrogateescape")), whole):
        if scope.suppressed:
            return ()
        if scope.value:
            return tuple(_addresses(scope.value))
    return ()


def _addresses(text: str) -> Iterable[str]:
    for word in re.split(r"[\s,]+", text):
        try:
            yield str(IPv4Address(word))
        except AddressValueError:  # the other encoding of VirtualBox's, raw bytes, is left out as well
            continue
