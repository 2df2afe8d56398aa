"""How a Linux host is made to ask vmdns: for our zones only (split DNS), or for everything.

What was measured with systemd-resolved 252 and 262: a server in resolved.conf is asked for every other name as well,
beside those of the links, whatever Domains= says, and where the administrator named another one there, that one is
asked for our zones. A delegate (systemd.dns-delegate(5), since version 258) or a link with routing domains is asked
for these and nothing else. The loopback interface is refused as such a link, so there is one of our own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmdns.host.loopback_address import WHOLE, LoopbackAddress
from vmdns.host.plan import Setting
from vmdns.host.resolv_conf import OURS, Earlier, ResolvConf, earlier_of, ours, parse_resolv_conf
from vmdns.host.resolver_setup import Ask, Place, Refusal
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
class Linux:
    """What was found: the text of resolv.conf and where it leads as a link ('' for a file), nsswitch.conf's hosts line,
    the version of a running systemd-resolved (0 for none), and who else takes care of names."""

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
        """Whether programs ask systemd-resolved, through its stub or by nss-resolve; or did before they asked us."""
        earlier = earlier_of(self.resolv_conf)
        did = earlier is not None and _RESOLVED in earlier.follow
        stub = bool({*self.servers} & {*_STUBS})
        return bool(self.resolved) and (stub or did or "resolve" in self.hosts_line.split())


def look(root: Path = Path("/")) -> Linux:
    """Looks at the files below `root`."""
    resolv_conf = root / "etc/resolv.conf"
    nsswitch = _text(root / "etc/nsswitch.conf").splitlines()
    resolved = (root / _RESOLVED.lstrip("/")).exists()
    return Linux(
        resolv_conf=_text(resolv_conf),
        link=os.readlink(resolv_conf) if resolv_conf.is_symlink() else "",
        hosts_line=next((one for one in nsswitch if one.startswith("hosts:")), ""),
        resolved=_version() if resolved else 0,
        resolved_servers=_servers(_text(root / _RESOLVED.lstrip("/"))),
        systemd=(root / "run/systemd/system").is_dir(),
        network_manager=(root / _NETWORK_MANAGER.lstrip("/")).exists(),
        dnsmasq=(root / "run/NetworkManager/dnsmasq.pid").exists(),
    )


def split(found: Linux, at: Place, zones: Sequence[str]) -> Ask | Refusal:
    """What makes this host ask vmdns, which listens `at` a place, for these zones and nothing else."""
    if WHOLE in found.servers:
        return Refusal("this computer asks vmdns for everything already (vmdns host --whole)")
    if found.uses_resolved:
        return Ask([resolved(found, at, zones)])
    if found.dnsmasq:
        lines = [f"server=/{zone}/{at.address}#{at.port}" for zone in zones]
        return Ask([(setting("dnsmasq-conf", DNSMASQ), "\n".join([about(at, zones), *lines]) + "\n")])
    return Refusal(
        f"this computer asks the servers in /etc/resolv.conf ({', '.join(found.servers) or 'none'}), where none can be "
        "named for single zones; `vmdns hosts --keep` writes the names into the hosts file instead, and "
        "`vmdns host --whole` makes this computer ask vmdns for everything"
    )


def about(at: Place, zones: Sequence[str]) -> str:
    """The comment that files of ours begin with."""
    return f"# by vmdns host: names in {' and '.join(zones)} are asked of vmdns at {at}"


def resolved(found: Linux, at: Place, zones: Sequence[str]) -> tuple[SystemFile, str]:
    """The file that tells systemd-resolved."""
    domains = " ".join(f"~{zone}" for zone in zones)
    if found.resolved >= _DELEGATES_SINCE:
        text = f"{about(at, zones)}\n[Delegate]\nDNS={at}\nDomains={domains}\n"
        return setting("dns-delegate", DELEGATE), text
    return setting("host-unit", UNIT), unit(at, zones)


def unit(at: Place | None, zones: Sequence[str]) -> str:
    """A unit that makes a link with an address of its own, and has systemd-resolved ask `at` through it.

    systemd-resolved takes no link without an address that is more than link-local, and forgets links at a restart of
    the computer, as the kernel does.
    """
    ip, resolvectl = shutil.which("ip") or "/sbin/ip", shutil.which("resolvectl") or "/usr/bin/resolvectl"
    nmcli = shutil.which("nmcli")
    start = [
        f"-{ip} link add {LINK} type dummy",
        # NetworkManager, where it is, shall not take the link for one that waits to be set up.
        *([f"-{nmcli} device set {LINK} managed no"] if nmcli else []),
        f"{ip} address replace {WHOLE}/32 dev {LINK}",
        f"{ip} link set {LINK} up",
    ]
    if at is not None:
        start.append(f"{resolvectl} dns {LINK} {at}")
        start.append(f"{resolvectl} domain {LINK} " + " ".join(f"~{zone}" for zone in zones))
        start.append(f"{resolvectl} default-route {LINK} false")
    return "\n".join(
        [
            about(at, zones) if at is not None else f"# by vmdns host: gives this computer the address {WHOLE}",
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


def whole(found: Linux, at: Place, zones: Sequence[str]) -> Ask | Refusal:
    """What makes this host ask vmdns for everything, at an address that VirtualBox passes on to guests behind NAT."""
    notes = [
        "while vmdns does not run, this computer resolves no names at all; have it started with your session first",
        f"VirtualBox then gives guests on NAT and NAT Networks {WHOLE} as their DNS server; those that run follow when "
        "they renew their lease",
    ]
    steps: list[tuple[Setting, Any]] = []
    if found.uses_resolved:
        # Programs that ask systemd-resolved and not resolv.conf.
        steps.append(resolved(found, at, zones))
    if not any(one.kind == "host-unit" for one, _ in steps) and found.systemd:
        steps.append((setting("host-unit", UNIT), unit(None, ())))
    if not found.systemd:
        steps.append((LoopbackAddress(WHOLE), True))
        notes.append(f"the address {WHOLE} is gone when this computer starts anew: apply it again then")
    earlier = earlier_of(found.resolv_conf)
    if earlier is None:
        earlier = before(found)
        if not earlier.follow:
            notes.append(
                f"vmdns goes on to ask {' and '.join(earlier.servers) or 'nobody'} for other names, also in another "
                "network; a DHCP client that writes /etc/resolv.conf takes the computer away from vmdns again"
            )
    if not earlier.follow and not earlier.servers:
        return Refusal("/etc/resolv.conf names no server now, so vmdns could ask nobody for other names")
    steps.append((setting("resolv.conf-of-ours", OURS), ours(found.resolv_conf, earlier, WHOLE)))
    steps.append((ResolvConf(), {"link": OURS}))
    return Ask(steps, notes, check=WHOLE)


def before(found: Linux) -> Earlier:
    """Whom the host asks now: the files that whoever writes resolv.conf goes on to write, and the servers."""
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
    return Earlier(tuple(dict.fromkeys(follow)), tuple(servers or found.resolved_servers))


_KINDS: dict[str, dict[str, object]] = {
    # Reloading is understood since delegates are.
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
    """The file of that kind. Raises KeyError where there is no such kind."""
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
    try:
        done = subprocess.run(["resolvectl", "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_version(done.stdout.decode(errors="replace"))
