"""The DNS servers that a Mac uses (scutil(8)), and plans to make it send queries to vmdns: resolver(5) for zones,
networksetup(8) for all queries.

Written from the manual pages and tested with texts in their format; never run on a Mac.
"""

from __future__ import annotations

import contextlib
import plistlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams, wire_names
from vmdns.host import elevation
from vmdns.host.plan import Setting
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress, LoopbackAddress, SystemFile, address_command

_PLIST = "/Library/LaunchDaemons/vmdns.address.plist"
_NETWORKSETUP = "/usr/sbin/networksetup"
_SCUTIL = ("/usr/sbin/scutil", "--dns")
_SCOPED = "(for scoped queries)"  # begins the part with the same servers for programs bound to an interface
_LINE = re.compile(r"\s+([^:\[]+?)\s*(?:\[\d+\])?\s*:\s*(.*\S)")


def read_upstreams() -> Upstreams:
    """The servers in use. Raises OSError where scutil cannot be run or fails."""
    try:
        return parse_scutil(elevation.run(_SCUTIL))
    except OSError as error:
        raise OSError(f"`scutil --dns` failed ({error}): no DNS servers of this host") from error


def watched_folders() -> list[Path]:
    """The folders of resolver(5) files, and of the resolv.conf that macOS writes when its network changes."""
    return [Path("/etc/resolver"), Path("/var/run")]


def parse_scutil(text: str) -> Upstreams:
    """Reads the first part of `scutil --dns`: the first resolver is the default one, those that follow serve the domain
    they name, or are further default ones. Resolvers of multicast DNS are left out."""
    default: dict[Upstream, None] = {}
    domains: dict[bytes, dict[Upstream, None]] = {}
    search: set[bytes] = set()
    general = text.partition(_SCOPED)[0]
    for number, block in enumerate(re.split(r"^resolver #\d+$", general, flags=re.MULTILINE)[1:]):
        values: dict[str, list[str]] = {}
        for match in filter(None, map(_LINE.match, block.splitlines())):
            values.setdefault(match[1], []).append(match[2])
        if "mdns" in " ".join(values.get("options", ())).split():
            continue
        port = values.get("port", ["53"])[0]
        servers = dict.fromkeys(
            Upstream(address, int(port) if port.isdecimal() else 53) for address in values.get("nameserver", ())
        )
        search |= wire_names(values.get("search domain", ()))
        with contextlib.suppress(ValueError):
            domain = to_wire(values.get("domain", [""])[0])
            if number == 0 or domain == b"\0":
                default |= servers
                search.add(domain)
            elif servers:
                domains.setdefault(domain, {}).update(servers)
    return Upstreams(
        tuple(default), {domain: tuple(servers) for domain, servers in domains.items()}, frozenset(search - {b"\0"})
    )


def parse_devices(text: str) -> list[str]:
    """The interfaces that have DNS servers now, in the output of `scutil --dns`."""
    return list(dict.fromkeys(re.findall(r"if_index : \d+ \((\S+)\)", text.partition(_SCOPED)[2])))


def parse_packet(text: str) -> list[str]:
    """The DNS servers in the output of `ipconfig getpacket`, which an interface got by DHCP."""
    match = re.search(r"^domain_name_server \(ip_mult\): \{([^}]*)\}", text, re.M)
    return [one.strip() for one in match[1].split(",") if one.strip()] if match else []


def read_dhcp_servers() -> list[str]:
    """The DNS servers from DHCP on interfaces in use, also where others are configured."""
    devices = parse_devices(elevation.read_output(*_SCUTIL))
    packets = [elevation.read_output("/usr/sbin/ipconfig", "getpacket", device) for device in devices]
    return list(dict.fromkeys(server for packet in packets for server in parse_packet(packet)))


def parse_order(text: str) -> dict[str, str]:
    """The network services in use by device, in the output of `networksetup -listnetworkserviceorder`."""
    pairs = re.findall(r"^\((\d+|\*)\) (.+)\n\(Hardware Port: .*, Device: (\S*)\)", text, re.M)
    return {device: name for number, name, device in pairs if number != "*" and device}


def parse_servers(text: str) -> list[str]:
    """The output of `networksetup -getdnsservers`: one address per line, or a sentence if there are none."""
    return [line.strip() for line in text.splitlines() if re.fullmatch(r"[0-9A-Fa-f.:%a-z]+", line.strip())]


class ResolverFile(SystemFile):
    """The server of one zone (resolver(5))."""

    kind = "resolver-file"
    alone = True


class AddressDaemon(SystemFile):
    """Adds the address of vmdns at each start of the Mac (launchd.plist(5))."""

    kind = "address-daemon"
    after = (("launchctl", "bootstrap", "system", _PLIST),)
    before_end = (
        ("launchctl", "bootout", "system", _PLIST),
        tuple(address_command(RESOLVER_ADDRESS, False, "darwin")),
    )


class ServiceServers(Setting):
    """The configured DNS servers of the network service `name`; none for those of DHCP."""

    kind = "mac-servers"

    def read(self) -> list[str]:
        return parse_servers(elevation.run([_NETWORKSETUP, "-getdnsservers", self.name]))

    def commands(self, value: list[str] | None) -> Sequence[Sequence[str]]:
        return [[_NETWORKSETUP, "-setdnsservers", self.name, *(value or ["Empty"])]]

    def describe(self, before: list[str] | None, after: list[str] | None) -> str:
        return f"set the DNS servers of {self.name} to {', '.join(after or ()) or 'those of the network'}"


SETTINGS = {one.kind: one for one in (ResolverFile, AddressDaemon, ServiceServers, LoopbackAddress)}


def plan_zones(at: ListenAddress, zones: Sequence[str]) -> list[tuple[Setting, Any]]:
    """What to set so that queries for these zones go to vmdns at `at`. Raises OSError where there is no way."""
    if not zones:
        raise OSError("macOS keeps .local for multicast DNS; name another zone in vmdns.toml, like vm.internal")
    text = f"# by vmdns host: names here are asked of vmdns at {at.short}\nnameserver {at.address}\nport {at.port}\n"
    return [(ResolverFile(f"/etc/resolver/{zone}"), text) for zone in zones]


def plan_all(services: Sequence[str] | None = None) -> list[tuple[Setting, Any]]:
    """What to set so that all queries go to vmdns, on the network services in use. Raises OSError."""
    services = _services_in_use() if services is None else services
    if not services:
        raise OSError("no network service of this Mac is in use, so there is nothing to set")
    command = address_command(RESOLVER_ADDRESS, True, "darwin")
    command[0] = "/sbin/ifconfig"
    plist = {"Label": "vmdns.address", "ProgramArguments": command, "RunAtLoad": True}
    daemon: tuple[Setting, Any] = AddressDaemon(_PLIST), plistlib.dumps(plist, sort_keys=False).decode()
    return [daemon, *((ServiceServers(name), [RESOLVER_ADDRESS]) for name in services)]


def _services_in_use() -> list[str]:
    """The network services that have DNS servers now. Raises OSError."""
    order = parse_order(elevation.run([_NETWORKSETUP, "-listnetworkserviceorder"]))
    return [order[one] for one in parse_devices(elevation.run(_SCUTIL)) if one in order]
