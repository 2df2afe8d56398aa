"""Parses what other programs write: console output, VirtualBox's DHCP option 6."""

from __future__ import annotations

import locale
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

NAME_SERVERS = 6  # the DHCP option of RFC 2132 section 3.8
EVERYONE = "*"  # the MAC wildcard of a group for all guests


def decode_console(data: bytes, platform: str) -> str:
    """The output of a console program. platform is `sys.platform`.

    Windows' own programs (netsh, getmac, schtasks, tasklist) write the console's code page, Python's codec `oem`, also
    in Python's UTF-8 mode, which 3.15 has on by default.
    """
    return data.decode("oem" if platform == "win32" else "utf-8", "replace")


def decode_text(data: bytes, platform: str) -> str:
    """The output of a program that writes the system's own (ANSI) code page on Windows, as VBoxManage and Python do.

    It is tried as UTF-8 first, which text in another code page hardly ever is by chance.
    """
    if platform != "win32":
        return data.decode("utf-8", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode(locale.getencoding(), "replace")


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
