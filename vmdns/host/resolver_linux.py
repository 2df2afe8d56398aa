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
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmdns.files import read_whole
from vmdns.host import elevation
from vmdns.host.plan import Plan, Setting
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress, LoopbackAddress, SystemFile
from vmdns.host.upstreams_linux import (
    MAX_BYTES,
    RESOLVED_CONF,
    STUBS,
    EarlierServers,
    parse_earlier_servers,
    parse_resolv_conf,
    read_text,
    render_resolv_conf,
)

OURS = "/etc/vmdns/resolv.conf"
_LINK = "vmdns0"
_RESOLVED = f"/{RESOLVED_CONF}"
_NETWORK_MANAGER = "/run/NetworkManager/no-stub-resolv.conf"
_DELEGATES_SINCE = 258


class Delegate(SystemFile):
    """Sends queries for some zones to vmdns (systemd.dns-delegate(5))."""

    kind = "dns-delegate"
    after = after_end = (("systemctl", "reload", "systemd-resolved"),)
    alone = True


class HostUnit(SystemFile):
    """The unit that makes the link of vmdns."""

    kind = "host-unit"
    after = (
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "vmdns-host.service"),
        ("systemctl", "restart", "vmdns-host.service"),
    )
    before_end = (("systemctl", "disable", "--now", "vmdns-host.service"),)
    after_end = (("systemctl", "daemon-reload"),)


class DnsmasqConf(SystemFile):
    """Has NetworkManager's dnsmasq send queries for some zones to vmdns."""

    kind = "dnsmasq-conf"
    after = after_end = (("nmcli", "general", "reload", "dns-full"),)


class OwnResolvConf(SystemFile):
    """The file of vmdns that /etc/resolv.conf becomes a link to.

    NetworkManager (NetworkManager.conf(5), rc-manager) and systemd-resolved leave a foreign link alone. VirtualBox
    reads the file too and passes it on to guests.
    """

    kind = "resolv.conf-of-ours"
    alone = True


_LINK_SCRIPT = 'set -e\nrm -f "$1.vmdns"\nln -s "$2" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'
_TEXT_SCRIPT = 'set -e\ncat >"$1.vmdns"\nchown "$2" "$1.vmdns"\nchmod "$3" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'


class ResolvConf(Setting):
    """The file `name`, /etc/resolv.conf, as {"link": target} or {"text", "mode", "owner"}; None for none."""

    kind = "resolv.conf"

    def read(self) -> dict[str, Any] | None:
        try:
            found = os.lstat(self.name)
            if stat.S_ISLNK(found.st_mode):
                return {"link": os.readlink(self.name)}
            text = read_whole(Path(self.name), MAX_BYTES).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        return {"text": text, "mode": f"{stat.S_IMODE(found.st_mode):o}", "owner": f"{found.st_uid}:{found.st_gid}"}

    def commands(self, value: dict[str, Any] | None) -> Sequence[Sequence[str]]:
        if value is None:
            return [("rm", self.name)]
        return [("ln", "-sfn", value["link"], self.name)] if "link" in value else []

    def write(self, value: dict[str, Any] | None) -> None:
        if value is None:
            command = ["rm", "-f", self.name]
        elif "link" in value:
            command = ["sh", "-c", _LINK_SCRIPT, "sh", self.name, value["link"]]
        else:
            command = ["sh", "-c", _TEXT_SCRIPT, "sh", self.name, value["owner"], value["mode"]]
        elevation.run(command, elevated=True, text=(value or {}).get("text", ""))

    def describe(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
        if after is None:
            return f"remove {self.name}"
        if "link" in after:
            return f"make {self.name} a link to {after['link']}"
        return f"make {self.name} the file it was, of {len(after['text'].splitlines())} lines"


SETTINGS = {one.kind: one for one in (Delegate, HostUnit, DnsmasqConf, OwnResolvConf, ResolvConf, LoopbackAddress)}

_DELEGATE = Delegate("/etc/systemd/dns-delegate.d/vmdns.dns-delegate")
_UNIT = HostUnit("/etc/systemd/system/vmdns-host.service")
_DNSMASQ = DnsmasqConf("/etc/NetworkManager/dnsmasq.d/vmdns.conf")


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
    def stub(self) -> bool:
        """Whether resolv.conf names systemd-resolved."""
        return not {*self.servers}.isdisjoint(STUBS)

    @property
    def uses_resolved(self) -> bool:
        """Whether programs use systemd-resolved, through its stub or nss-resolve, or did before `--whole`."""
        earlier = parse_earlier_servers(self.resolv_conf)
        did = earlier is not None and _RESOLVED in earlier.follow
        return bool(self.resolved) and (self.stub or did or "resolve" in self.hosts_line.split())


def read_resolver(root: Path = Path("/")) -> LinuxResolver:
    """Reads the settings below `root`."""
    file = root / "etc/resolv.conf"
    nsswitch = read_text(root / "etc/nsswitch.conf").splitlines()
    resolved = root / RESOLVED_CONF
    return LinuxResolver(
        resolv_conf=read_text(file),
        link=os.readlink(file) if file.is_symlink() else "",
        hosts_line=next((one for one in nsswitch if one.startswith("hosts:")), ""),
        resolved=parse_version(elevation.read_output("resolvectl", "--version")) if resolved.exists() else 0,
        resolved_servers=_servers(read_text(resolved)),
        systemd=(root / "run/systemd/system").is_dir(),
        network_manager=(root / _NETWORK_MANAGER.lstrip("/")).exists(),
        dnsmasq=(root / "run/NetworkManager/dnsmasq.pid").exists(),
    )


def parse_version(text: str) -> int:
    """The version in the first line of `resolvectl --version`; 0 where there is none."""
    match = re.match(r"systemd (\d+)", text)
    return int(match[1]) if match else 0


def _servers(text: str) -> tuple[str, ...]:
    return tuple(one.address for one in parse_resolv_conf(text).default)


def plan_zones(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> list[tuple[Setting, Any]]:
    """What to set so that queries for these zones go to vmdns at `at`. Raises OSError where there is no way."""
    if RESOLVER_ADDRESS in found.servers:
        raise OSError("this computer asks vmdns for everything already (vmdns host --whole)")
    if found.uses_resolved:
        return [_plan_resolved(found, at, zones)]
    if found.dnsmasq:
        lines = [_about(at, zones), *(f"server=/{zone}/{at.address}#{at.port}" for zone in zones), ""]
        return [(_DNSMASQ, "\n".join(lines))]
    raise OSError(
        f"this computer asks the servers in /etc/resolv.conf ({', '.join(found.servers) or 'none'}), where none can be "
        "named for single zones; `vmdns hosts --keep` writes the names into the hosts file instead, and "
        "`vmdns host --whole` makes this computer ask vmdns for everything"
    )


def _about(at: ListenAddress, zones: Sequence[str]) -> str:
    return f"# by vmdns host: names in {' and '.join(zones)} are asked of vmdns at {at.short}"


def _plan_resolved(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> tuple[Setting, str]:
    domains = " ".join(f"~{zone}" for zone in zones)
    if found.resolved >= _DELEGATES_SINCE:
        return _DELEGATE, f"{_about(at, zones)}\n[Delegate]\nDNS={at.short}\nDomains={domains}\n"
    resolvectl = shutil.which("resolvectl") or "/usr/bin/resolvectl"
    start = (
        f"{resolvectl} dns {_LINK} {at.short}",
        f"{resolvectl} domain {_LINK} {domains}",
        f"{resolvectl} default-route {_LINK} false",
    )
    after = "Wants=systemd-resolved.service\nAfter=systemd-resolved.service\n"
    return _UNIT, _render_unit(_about(at, zones), after, start)


def _render_unit(about: str, after: str = "", start: Sequence[str] = ()) -> str:
    """A unit that makes a link with an address at each start, and then runs these commands.

    systemd-resolved ignores a link without an address that is not link-local. NetworkManager must not configure it.
    """
    ip, nmcli = shutil.which("ip") or "/sbin/ip", shutil.which("nmcli")
    lines = [
        f"-{ip} link add {_LINK} type dummy",
        *([f"-{nmcli} device set {_LINK} managed no"] if nmcli else []),
        f"{ip} address replace {RESOLVER_ADDRESS}/32 dev {_LINK}",
        f"{ip} link set {_LINK} up",
        *start,
    ]
    commands = "\n".join(f"ExecStart={line}" for line in lines)
    return f"""\
{about}
[Unit]
Description=This computer's way to vmdns
{after}
[Service]
Type=oneshot
RemainAfterExit=yes
{commands}
ExecStop={ip} link del {_LINK}

[Install]
WantedBy=multi-user.target
"""


def plan_all(found: LinuxResolver, at: ListenAddress, zones: Sequence[str]) -> Plan:
    """What to set so that all queries go to vmdns, and notes. Raises OSError where there is no way."""
    notes = [
        f"VirtualBox then gives guests on NAT and NAT Networks {RESOLVER_ADDRESS} as their DNS server; those that run "
        "follow when they renew their lease"
    ]
    # For programs that use systemd-resolved instead of resolv.conf.
    wanted: list[tuple[Setting, Any]] = [_plan_resolved(found, at, zones)] if found.uses_resolved else []
    if not found.systemd:
        wanted.append((LoopbackAddress(RESOLVER_ADDRESS), True))
        notes.append(f"the address {RESOLVER_ADDRESS} is lost on reboot: apply this again then")
    elif not any(setting == _UNIT for setting, _ in wanted):
        about = f"# by vmdns host: gives this computer the address {RESOLVER_ADDRESS}"
        wanted.append((_UNIT, _render_unit(about)))
    earlier = parse_earlier_servers(found.resolv_conf)
    if earlier is None:
        earlier = find_earlier_servers(found)
        if not earlier.follow:
            notes.append(
                f"vmdns continues to forward other names to {' and '.join(earlier.servers) or 'no server'}, also in "
                "another network; a DHCP client that writes /etc/resolv.conf takes the computer away from vmdns again"
            )
    if not earlier.follow and not earlier.servers:
        raise OSError("/etc/resolv.conf names no server now, so vmdns could not forward other names")
    text = render_resolv_conf(found.resolv_conf, earlier, RESOLVER_ADDRESS)
    wanted += [(OwnResolvConf(OURS), text), (ResolvConf("/etc/resolv.conf"), {"link": OURS})]
    return wanted, notes


def find_earlier_servers(found: LinuxResolver) -> EarlierServers:
    """The name servers of the host now: the files that resolvers continue to write, and fixed servers."""
    follow = [_RESOLVED] if found.stub else []
    if found.network_manager and not found.stub and not found.dnsmasq:  # its dnsmasq has domains of links
        follow.append(_NETWORK_MANAGER)
    if found.link and not found.stub:
        follow.append(os.path.normpath(os.path.join("/etc", found.link)))
    servers = [one for one in found.servers if one not in STUBS]
    return EarlierServers(tuple(dict.fromkeys(follow)), tuple(servers or found.resolved_servers))
