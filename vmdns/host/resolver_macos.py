"""Plans that make a Mac send queries to vmdns: resolver(5) for single zones, networksetup(8) for all queries.

Written from the manual pages and tested with texts in their format; never run on a Mac.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevation
from vmdns.host.loopback_address import RESOLVER_ADDRESS, address_commands
from vmdns.host.plan import Setting
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.system_file import SystemFile

PLIST = "/Library/LaunchDaemons/vmdns.address.plist"
_NETWORKSETUP = "/usr/sbin/networksetup"


def split(at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    """The plan to send queries for these zones to vmdns at `at`. `.local` stays with multicast DNS."""
    text = f"# by vmdns host: names here are asked of vmdns at {at}\nnameserver {at.address}\nport {at.port}\n"
    wanted = [(setting("resolver-file", f"/etc/resolver/{zone}"), text) for zone in zones if zone != "local"]
    if not wanted:
        return Refusal("macOS keeps .local for multicast DNS; name another zone in vmdns.toml, like vm.internal")
    notes = ["names in local are left to multicast DNS, as macOS wants it"] if "local" in zones else []
    return ResolverPlan(wanted, notes)


def whole(services: Sequence[str]) -> ResolverPlan | Refusal:
    """The plan to send all queries to vmdns, on these network services."""
    if not services:
        return Refusal("no network service of this Mac is in use, so there is nothing to set")
    wanted: list[tuple[Setting, Any]] = [(setting("address-daemon", PLIST), render_address_plist())]
    wanted += [(ServiceServers(name), [RESOLVER_ADDRESS]) for name in services]
    return ResolverPlan(
        wanted,
        [
            "while vmdns does not run, this computer resolves no names at all; have it started with your session first",
            f"VirtualBox then gives guests on NAT {RESOLVER_ADDRESS} as their DNS server",
        ],
        check=RESOLVER_ADDRESS,
    )


def render_address_plist() -> str:
    """A launchd.plist(5) that adds the address at each start of the Mac."""
    words = ["/sbin/ifconfig", *address_commands(RESOLVER_ADDRESS, True, "darwin")[0][1:]]
    arguments = "".join(f"<string>{word}</string>" for word in words)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
        '<plist version="1.0"><dict>\n'
        "<key>Label</key><string>vmdns.address</string>\n"
        f"<key>ProgramArguments</key><array>{arguments}</array>\n"
        "<key>RunAtLoad</key><true/>\n"
        "</dict></plist>\n"
    )


def setting(kind: str, name: str) -> SystemFile:
    """The setting for a file of that kind. Raises KeyError for an unknown kind."""
    if kind == "resolver-file":
        return SystemFile(kind, name, alone=True)
    if kind != "address-daemon":
        raise KeyError(kind)
    down = tuple(address_commands(RESOLVER_ADDRESS, False, "darwin")[0])
    return SystemFile(
        kind,
        name,
        after=(("launchctl", "bootstrap", "system", PLIST),),
        before_end=(("launchctl", "bootout", "system", PLIST), down),
    )


@dataclass(frozen=True, slots=True)
class ServiceServers:
    """A `Setting` (plan.py): the configured DNS servers of the network service `name`; none for those of DHCP."""

    name: str
    kind: str = field(default="mac-servers", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> list[str]:
        return parse_servers(elevation.run([_NETWORKSETUP, "-getdnsservers", self.name]))

    def write(self, value: list[str] | None) -> None:
        elevation.run(self._command(value), elevated=True)

    def describe(self, before: list[str] | None, after: list[str] | None) -> str:
        return f"set the DNS servers of {self.name} to {', '.join(after or ()) or 'those of the network'}"

    def commands(self, before: list[str] | None, after: list[str] | None) -> Sequence[str]:
        return [elevation.format_command(self._command(after), elevated=True)]

    def _command(self, value: list[str] | None) -> list[str]:
        return [_NETWORKSETUP, "-setdnsservers", self.name, *(value or ["Empty"])]


def parse_servers(text: str) -> list[str]:
    """The output of `networksetup -getdnsservers`: one address per line, or a sentence if there are none."""
    return [line.strip() for line in text.splitlines() if re.fullmatch(r"[0-9A-Fa-f.:%a-z]+", line.strip())]


def parse_order(text: str) -> dict[str, str]:
    """The network services in use by device, in the output of `networksetup -listnetworkserviceorder`."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"\((\d+|\*)\) (.+)", line):
            name = "" if match[1] == "*" else match[2]
        elif (match := re.match(r"\(Hardware Port: .*, Device: (\S*)\)", line)) and name and match[1]:
            found[match[1]] = name
    return found


def parse_devices(text: str) -> list[str]:
    """The interfaces that have DNS servers now, in the output of `scutil --dns`."""
    scoped = text.partition("(for scoped queries)")[2]
    return list(dict.fromkeys(re.findall(r"if_index : \d+ \((\S+)\)", scoped)))


def parse_packet(text: str) -> list[str]:
    """The DNS servers in the output of `ipconfig getpacket`, which an interface got by DHCP."""
    match = re.search(r"^domain_name_server \(ip_mult\): \{([^}]*)\}", text, re.M)
    return [one.strip() for one in match[1].split(",") if one.strip()] if match else []


def services() -> list[str]:
    """The network services that have DNS servers now. Raises OSError."""
    order = parse_order(elevation.run([_NETWORKSETUP, "-listnetworkserviceorder"]))
    return [order[one] for one in parse_devices(elevation.run(["/usr/sbin/scutil", "--dns"])) if one in order]


def dhcp_servers() -> list[str]:
    """The DNS servers from DHCP on interfaces in use, also where others are configured."""
    found: list[str] = []
    for device in parse_devices(_output("/usr/sbin/scutil", "--dns")):
        found += parse_packet(_output("/usr/sbin/ipconfig", "getpacket", device))
    return list(dict.fromkeys(found))


def _output(*command: str) -> str:
    return elevation.read_output(*command).decode(errors="replace")
