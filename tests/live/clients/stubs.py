"""The stub resolvers that guests have, each set up as its system does it, and how to ask them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from tests.live.clients.net import Guest, Wire

# As the DHCP clients of Debian, Alpine and others write it: the search list if there is one, else the domain.
RESOLV_CONF = """
{
    [ -z "${search:-$domain}" ] || echo "search ${search:-$domain}"
    for one in $dns; do echo "nameserver $one"; done
} >/etc/resolv.conf
"""
RESOLVED = """
resolvectl dns "$interface" $dns
resolvectl domain "$interface" ${search:-$domain}
"""


@dataclass(frozen=True)
class Stub:
    """One kind of stub resolver.

    hosts is the line of nsswitch.conf, configure the lines of the DHCP client that set it up, probe the program that
    queries through it.
    """

    name: str
    probe: str
    hosts: str = "files dns"
    avahi: bool = False
    resolved: bool = False

    @property
    def configure(self) -> str:
        return RESOLVED if self.resolved else RESOLV_CONF

    def boot(self, wire: Wire, mac: str, name: str) -> Guest:
        """A guest with this resolver on a wire, before it takes a lease."""
        guest = Guest(wire, mac, name)
        try:
            guest.write("/etc/nsswitch.conf", f"hosts: {self.hosts}\n")
            if self.avahi or self.resolved:
                guest.run("dbus-uuidgen", "--ensure=/etc/machine-id")
                guest.run("busybox", "mkdir", "-p", "/run/dbus", "/run/systemd")
                guest.start(
                    "dbus-daemon", "--system", "--nofork", "--nopidfile", ready="/run/dbus/system_bus_socket"
                )  # fmt: skip
            if self.avahi:
                guest.start("avahi-daemon", ready="/run/avahi-daemon/socket")
            if self.resolved:
                guest.run("busybox", "rm", "/etc/resolv.conf")
                guest.run("busybox", "ln", "-s", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
                guest.start("/usr/lib/systemd/systemd-resolved", ready="/run/systemd/resolve/io.systemd.Resolve")
        except BaseException:
            guest.close()
            raise
        return guest

    def query(self, guest: Guest, what: str) -> tuple[tuple[str, ...], float]:
        """The addresses of a name, or the names of an address, without a cache; and the milliseconds it took."""
        if self.resolved:
            guest.run("resolvectl", "flush-caches")
        if self.probe == "dig":
            return _dig(guest, what)
        milliseconds, _, found = guest.run(self.probe, what).strip().partition(" ")
        words = (found,) if found.startswith("(") else found.split()
        return tuple(sorted(set(words))), float(milliseconds)


def _dig(guest: Guest, what: str) -> tuple[tuple[str, ...], float]:
    start = time.perf_counter()
    words = ["-x", what] if re.fullmatch(r"[\d.]+", what) else [what]
    output = guest.run("dig", "+search", "+noall", "+comments", "+answer", *words, check=False)
    took = (time.perf_counter() - start) * 1000
    found = sorted({line.split()[-1].rstrip(".") for line in output.splitlines() if line and line[0] != ";"})
    return tuple(found or [f"({output.strip()})"]), took


MDNS = "files mdns4_minimal [NOTFOUND=return] dns"
GLIBC = Stub("glibc", "probe-glibc")
AVAHI = Stub("glibc, nss-mdns, Avahi", "probe-glibc", MDNS, avahi=True)
DIG = Stub("dig", "dig")
STUBS = (
    GLIBC,
    Stub("glibc, nss-mdns, no Avahi", "probe-glibc", MDNS),
    AVAHI,
    Stub("systemd-resolved by nss-resolve", "probe-glibc", "resolve [!UNAVAIL=return] files dns", resolved=True),
    Stub("systemd-resolved by its stub", "probe-glibc", resolved=True),
    Stub("musl", "probe-musl"),
    Stub("c-ares", "probe-cares"),
    DIG,
)
