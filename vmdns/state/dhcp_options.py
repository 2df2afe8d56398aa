"""Which name servers VirtualBox's DHCP server hands to an ordinary guest (option 6, RFC 2132 section 3.8).

Options are set for the whole server or for groups of guests; those of single VMs are not looked at here.
Groups come first, in the order of their names; the first scope that has the option gives it, one that suppresses it
ends the search (Config::getOptionsForClient of VirtualBox's Dhcpd/Config.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

NAME_SERVERS = 6
EVERYONE = "*"  # the MAC wildcard of a group for all guests


@dataclass(frozen=True, slots=True)
class Scope:
    """Option 6 of the whole server (name is empty) or of one group as VirtualBox's text, '' where it has none."""

    name: str = ""
    value: str = ""
    suppressed: bool = False


def find_name_servers(whole: Scope, everyone: Iterable[Scope]) -> tuple[str, ...]:
    """The addresses that a guest gets; everyone are the groups with a MAC wildcard `*`, in any order."""
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
