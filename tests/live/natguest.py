"""Guests on natlab's wires: namespaces with a VM's MAC, and the C library's resolver set up by what DHCP gave."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live import natlab
from tests.live.clients.stubs import RESOLV_CONF
from tests.live.lab import until

# What `ip netns exec` mounts over the files of /etc in a namespace of that name.
ETC = Path("/etc/netns")
SCRIPT = (
    '#!/bin/sh -e\ncase "$1" in bound | renew) ;; *) exit 0 ;; esac\n'
    "ip addr flush dev $interface\nip addr add $ip/$mask dev $interface\n"
    '[ -z "$router" ] || ip route replace default via $router\n'
    f"{RESOLV_CONF}"
    "env | grep -E '^(ip|dns|domain|search|serverid)='\ndate +at=%s.%N\n"
)
ASK = """
import sys, dns.message, dns.query
server, name, kind = sys.argv[1:]
print(dns.query.udp(dns.message.make_query(name, kind, use_edns=True), server, timeout=5))
"""


class Guest:
    """The namespace natlabg<number>, whose eth0 has the MAC of a VM. `guest` makes it usable, and cleans up."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mac = f"080027AABB{number:02}"  # as VirtualBox writes it
        self.etc = ETC / f"natlabg{number}"
        self.bound = 0.0  # when it was last given a lease, as time.time()

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in the guest prints."""
        return natlab.run("guest", str(self.number), *command, check=check)

    def lease(self, client_id: str = "", **wanted: str) -> dict[str, str]:
        """Takes a lease in which this is given; a DHCP server that was just started may not be on the wire yet.

        client_id is in hexadecimal; without one it is the usual one, made of the MAC.
        """
        identity = ("-C", "-x", f"0x3d:{client_id}") if client_id else ()
        options = ("-f", "-q", "-n", "-t", "1", "-T", "1", "-O", "search", *identity)

        def take() -> dict[str, str]:
            natlab.plug()
            said = self.run("busybox", "udhcpc", "-i", "eth0", *options, "-s", str(self.etc / "udhcpc"), check=False)
            got = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
            return got if "at" in got and wanted.items() <= got.items() else {}

        got = until(take, f"guest {self.number} is given {wanted or 'an address'}")
        assert isinstance(got, dict)
        self.bound = float(got["at"])
        return got

    def finds(self, what: str) -> list[str]:
        """What its C library's resolver finds for a name (IPv4 addresses), or for an address (names)."""
        if what.replace(".", "").isdigit():
            return self.run("getent", "hosts", what, check=False).split()[1:]
        lines = self.run("getent", "ahostsv4", what, check=False).splitlines()
        return sorted({line.split()[0] for line in lines})

    def wait(self, what: str, *wanted: str, since: float) -> float:
        """Waits until it finds just this; the seconds from `since`, a time.time()."""
        until(lambda: self.finds(what) == list(wanted), f"guest {self.number} finds {wanted} for {what}")
        return time.time() - since

    def told(self, name: str, kind: str = "A") -> str:
        """The whole answer of the DNS server that it was given, as text."""
        server = (self.etc / "resolv.conf").read_text().split("nameserver ")[1].split()[0]
        return self.run(sys.executable, "-c", ASK, server, name, kind)


@contextlib.contextmanager
def guest(number: int) -> Iterator[Guest]:
    """A guest of natlab, whose namespace is there."""
    made = Guest(number)
    made.etc.mkdir(parents=True, exist_ok=True)
    made.etc.joinpath("nsswitch.conf").write_text("hosts: files dns\n")
    made.etc.joinpath("resolv.conf").write_text("")
    made.etc.joinpath("udhcpc").write_text(SCRIPT)
    made.etc.joinpath("udhcpc").chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made.etc)
