"""Plans that make a Linux host send queries to vmdns: for the local zones only (split DNS), or all queries.

Measured with systemd-resolved 252 and 262: a server in resolved.conf gets queries for every other name too, beside the
servers of links, whatever Domains= says, and another server there gets queries for our zones. A delegate
(systemd.dns-delegate(5), since version 258) or a link with routing domains gets only queries for its domains. The
loopback interface is refused as such a link, so vmdns makes one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmdns.host import elevation
from vmdns.host.loopback_address import RESOLVER_ADDRESS, LoopbackAddress
from vmdns.host.plan import Setting
from vmdns.host.resolv_conf import (
    OURS,
    EarlierServers,
    ResolvConf,
    parse_earlier_servers,
    parse_resolv_conf,
    render_resolv_conf,
)
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.system_file import SystemFile
from vmdns.regular_file import read_regular

DELEGATE = "/etc/systemd/dns-delegate.d/vmdns.dns-delegate"
UNIT = "/etc/systemd/system/vmdns-host.service"
DNSMASQ = "/etc/NetworkManager/dnsmasq.d/vmdns.conf"
LINK = "vmdns0"
_STUBS = ("127.0.0.53", "127.0.0.54")
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_NETWORK_MANAGER = "/run/NetworkManager/no-stub-resolv.conf"
_DELEGATES_SINCE = 258
_MOST_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class LinuxResolver:
    """The resolver settings of this host: the text of resolv.conf and its link target ('' for a file), nsswitch.conf's
    hosts line, the version of a running systemd-resolved (0 for none), and other resolver services."""

    resolv_conf: str = ""
    link: str = ""
    hosts_line: str = ""
    resolved: int = 0
    resolved_servers: tuple[str, ...] = ()
    systemd: bool = False
    network_manager: bool = False
    dnsmasq: bool = False

    @property
    def servers(self) -> tuple[str, ...]:
        return _servers(self.resolv_conf)

    @property
    def uses_resolved(self) -> bool:
        """Whether programs use systemd-resolved, through its stub or nss-resolve, or did before `--whole`."""
        earlier = parse_earlier_servers(self.resolv_conf)
        did = earlier is not None and _RESOLVED in earlier.follow
        stub = bool({*self.servers} & {*_STUBS})
        return bool(self.resolved) and (stub or did or "resolve" in self.hosts_line.split())


def look(root: Path = Path("/")) -> LinuxResolver:
    """Reads the settings below `root`."""
    resolv_conf = root / "etc/resolv.conf"
    nsswitch = _text(root / "etc/nsswitch.conf").splitlines()
    resolved = (root / _RESOLVED.lstrip("/")).exists()
    return LinuxResolver(
        resolv_conf=_text(resolv_conf),
        link=os.readlink(resolv_conf) if resolv_conf.is_symlink() else "",
        hosts_line=next((one for one in nsswitch if one.startswith("hosts:")), ""),
        resolved=_version() if resolved else 0,
        resolved_servers=_servers(_text(root / _RESOLVED.lstrip("/"))),
        systemd=(root / "run/systemd/system").is_dir(),
        network_manager=(root / _NETWORK_MANAGER.lstrip("/")).exists(),
        dnsmasq=(root / "run/NetworkManager/dnsmasq.pid").exists(),
    )


def split(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    """The plan to send queries for these zones to vmdns at `at`."""
    if RESOLVER_ADDRESS in found.servers:
        return Refusal("this computer asks vmdns for everything already (vmdns host --whole)")
    if found.uses_resolved:
        return ResolverPlan([resolved(found, at, zones)])
    if found.dnsmasq:
        lines = [f"server=/{zone}/{at.address}#{at.port}" for zone in zones]
        return ResolverPlan([(setting("dnsmasq-conf", DNSMASQ), "\n".join([about(at, zones), *lines]) + "\n")])
    return Refusal(
        f"this computer asks the servers in /etc/resolv.conf ({', '.join(found.servers) or 'none'}), where none can be "
        "named for single zones; `vmdns hosts --keep` writes the names into the hosts file instead, and "
        "`vmdns host --whole` makes this computer ask vmdns for everything"
    )


def about(at: ListenAddress, zones: Sequence[str]) -> str:
    """The comment at the top of files that vmdns writes."""
    return f"# by vmdns host: names in {' and '.join(zones)} are asked of vmdns at {at}"


def resolved(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> tuple[SystemFile, str]:
    """The file that configures systemd-resolved."""
    domains = " ".join(f"~{zone}" for zone in zones)
    if found.resolved >= _DELEGATES_SINCE:
        text = f"{about(at, zones)}\n[Delegate]\nDNS={at}\nDomains={domains}\n"
        return setting("dns-delegate", DELEGATE), text
    return setting("host-unit", UNIT), unit(at, zones)


def unit(at: ListenAddress | None, zones: Sequence[str]) -> str:
    """A unit that creates a link with an address, and makes systemd-resolved use `at` as its server.

    systemd-resolved ignores a link without an address that is not link-local. Links are lost on reboot, so the unit
    creates it at each start.
    """
    ip, resolvectl = shutil.which("ip") or "/sbin/ip", shutil.which("resolvectl") or "/usr/bin/resolvectl"
    nmcli = shutil.which("nmcli")
    start = [
        f"-{ip} link add {LINK} type dummy",
        # NetworkManager must not configure the link.
        *([f"-{nmcli} device set {LINK} managed no"] if nmcli else []),
        f"{ip} address replace {RESOLVER_ADDRESS}/32 dev {LINK}",
        f"{ip} link set {LINK} up",
    ]
    if at is not None:
        start.append(f"{resolvectl} dns {LINK} {at}")
        start.append(f"{resolvectl} domain {LINK} " + " ".join(f"~{zone}" for zone in zones))
        start.append(f"{resolvectl} default-route {LINK} false")
    return "\n".join(
        [
            about(at, zones)
            if at is not None
            else f"# by vmdns host: gives this computer the address {RESOLVER_ADDRESS}",
            "[Unit]",
            "Description=This computer's way to vmdns",
            *(["Wants=systemd-resolved.service", "After=systemd-resolved.service"] if at is not None else []),
            "",
            "[Service]",
            "Type=oneshot",
            "RemainAfterExit=yes",
            *(f"ExecStart={line}" for line in start),
            f"ExecStop={ip} link del {LINK}",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def whole(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    """The plan to send all queries to vmdns, at an address that VirtualBox passes on to guests behind NAT."""
    notes = [
        "while vmdns does not run, this computer resolves no names at all; have it started with your session first",
        f"VirtualBox then gives guests on NAT and NAT Networks {RESOLVER_ADDRESS} as their DNS server; those that run "
        "follow when they renew their lease",
    ]
    steps: list[tuple[Setting, Any]] = []
    if found.uses_resolved:
        # For programs that use systemd-resolved instead of resolv.conf.
        steps.append(resolved(found, at, zones))
    if not any(one.kind == "host-unit" for one, _ in steps) and found.systemd:
        steps.append((setting("host-unit", UNIT), unit(None, ())))
    if not found.systemd:
        steps.append((LoopbackAddress(RESOLVER_ADDRESS), True))
        notes.append(f"the address {RESOLVER_ADDRESS} is lost on reboot: apply this again then")
    earlier = parse_earlier_servers(found.resolv_conf)
    if earlier is None:
        earlier = before(found)
        if not earlier.follow:
            notes.append(
                f"vmdns continues to forward other names to {' and '.join(earlier.servers) or 'no server'}, also in "
                "another network; a DHCP client that writes /etc/resolv.conf takes the computer away from vmdns again"
            )
    if not earlier.follow and not earlier.servers:
        return Refusal("/etc/resolv.conf names no server now, so vmdns could not forward other names")
    steps.append(
        (setting("resolv.conf-of-ours", OURS), render_resolv_conf(found.resolv_conf, earlier, RESOLVER_ADDRESS))
    )
    steps.append((ResolvConf(), {"link": OURS}))
    return ResolverPlan(steps, notes, check=RESOLVER_ADDRESS)


def before(found: LinuxResolver) -> EarlierServers:
    """The name servers of the host now: the files that resolvers continue to write, and fixed servers."""
    follow = []
    stub = bool({*found.servers} & {*_STUBS})
    if stub:
        follow.append(_RESOLVED)
    if found.network_manager and not stub and not found.dnsmasq:  # NetworkManager's dnsmasq has domains of links
        follow.append(_NETWORK_MANAGER)
    if found.link and not stub:
        target = os.path.normpath(os.path.join("/etc", found.link))
        follow.append(target)
    servers = [one for one in found.servers if one not in _STUBS]
    return EarlierServers(tuple(dict.fromkeys(follow)), tuple(servers or found.resolved_servers))


_KINDS: dict[str, dict[str, object]] = {
    # Versions with delegates can reload.
    "dns-delegate": {
        "after": (("systemctl", "reload", "systemd-resolved"),),
        "after_end": (("systemctl", "reload", "systemd-resolved"),),
        "alone": True,
    },
    "host-unit": {
        "after": (
            ("systemctl", "daemon-reload"),
            ("systemctl", "enable", "vmdns-host.service"),
            ("systemctl", "restart", "vmdns-host.service"),
        ),
        "before_end": (("systemctl", "disable", "--now", "vmdns-host.service"),),
        "after_end": (("systemctl", "daemon-reload"),),
    },
    "dnsmasq-conf": {
        "after": (("nmcli", "general", "reload", "dns-full"),),
        "after_end": (("nmcli", "general", "reload", "dns-full"),),
    },
    "resolv.conf-of-ours": {"alone": True},
}


def setting(kind: str, name: str) -> SystemFile:
    """The setting for a file of that kind. Raises KeyError for an unknown kind."""
    return SystemFile(kind, name, **_KINDS[kind])  # type: ignore[arg-type]


def _servers(text: str) -> tuple[str, ...]:
    return tuple(one.address for one in parse_resolv_conf(text).default)


def _text(path: Path) -> str:
    try:
        return read_regular(path, _MOST_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def parse_version(text: str) -> int:
    """The version in the first line of `resolvectl --version`; 0 where there is none."""
    match = re.match(r"systemd (\d+)", text)
    return int(match[1]) if match else 0


def _version() -> int:
    return parse_version(elevation.read_output("resolvectl", "--version").decode(errors="replace"))
