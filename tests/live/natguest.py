"""Guests on natlab's wires: namespaces with a VM's MAC, and the C library's resolver set up by what DHCP gave."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live import natlab
from tests.live.clients.net import colons
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
QUERY = """
import sys, dns.message, dns.query
server, name, kind = sys.argv[1:]
print(dns.query.udp(dns.message.make_query(name, kind, use_edns=True), server, timeout=5))
"""
GET = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
sys.stdout.write(opener.open(sys.argv[1], timeout=10).read().decode())
"""


class Guest:
    """The namespace natlabg<number>, whose eth0 has the MAC of a VM. `guest` makes it usable, and cleans up."""

    def __init__(self, number: int, bridge: str, folder: Path) -> None:
        self.number = number
        self.bridge = bridge
        self.folder = folder
        self.mac = f"080027AABB{number:02}"  # as VirtualBox writes it
        self.namespace = f"natlabg{number}"
        self.bound = 0.0  # when it was last given a lease, as time.time()

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in the guest prints."""
        return natlab.run("guest", str(self.number), *command, check=check)

    def lease(self, client_id: str = "", **wanted: str) -> dict[str, str]:
        """Takes a lease in which this is given; a DHCP server that was just started may not be on the wire yet.

        client_id is in hexadecimal; without one it is the usual one, made of the MAC.
        """
        identity = ("-C", "-x", f"0x3d:{client_id}") if client_id else ()
        options = ("-f", "-q", "-n", "-t", "2", "-T", "2", "-O", "search", *identity)

        def take() -> dict[str, str]:
            natlab.plug(self.bridge)
            output = self.run(
                "busybox", "udhcpc", "-i", "eth0", *options, "-s", str(self.folder / "udhcpc"), check=False
            )
            got = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
            return got if "at" in got and wanted.items() <= got.items() else {}

        got: dict[str, str] = until(take, f"guest {self.number} is given {wanted or 'an address'}")
        self.bound = float(got["at"])
        return got

    @contextlib.contextmanager
    def serving(self, page: str) -> Iterator[None]:
        """A web server at its port 80, with this page."""
        self.folder.joinpath("index.html").write_text(page)
        command = ["ip", "netns", "exec", self.namespace, "busybox", "httpd", "-f", "-p", "80", "-h"]
        server = subprocess.Popen([*command, str(self.folder)])  # `ip` becomes the server
        try:
            yield
        finally:
            server.kill()
            server.wait(10)

    @property
    def resolv_conf(self) -> str:
        return (ETC / self.namespace / "resolv.conf").read_text()

    def resolve(self, what: str) -> list[str]:
        """What its C library's resolver finds for a name (IPv4 addresses), or for an address (names)."""
        if what.replace(".", "").isdigit():
            return self.run("getent", "hosts", what, check=False).split()[1:]
        lines = self.run("getent", "ahostsv4", what, check=False).splitlines()
        return sorted({line.split()[0] for line in lines})

    def wait(self, what: str, *wanted: str, since: float) -> float:
        """Waits until it finds just this; the seconds from `since`, a time.time()."""
        until(lambda: self.resolve(what) == list(wanted), f"guest {self.number} finds {wanted} for {what}")
        return time.time() - since

    def fetch(self, url: str, page: str) -> None:
        """Waits until it is given this page by a program that asks the C library for the host's name.

        vmdns may know of a port-forward rule before VirtualBox listens at its port.
        """
        command = (sys.executable, "-c", GET, url)
        until(lambda: self.run(*command, check=False) == page, f"guest {self.number} fetches {url}")

    def query(self, name: str, kind: str = "A") -> str:
        """The whole answer of the DNS server that it was given, as text."""
        server = self.resolv_conf.split("nameserver ")[1].split()[0]
        return self.run(sys.executable, "-c", QUERY, server, name, kind)


@contextlib.contextmanager
def guest(number: int, bridge: str = "br0") -> Iterator[Guest]:
    """A guest on one of natlab's wires; the first two have their namespaces from natlab."""
    with tempfile.TemporaryDirectory() as folder:
        made = Guest(number, bridge, Path(folder))
        etc = ETC / made.namespace
        etc.mkdir(parents=True, exist_ok=True)
        etc.joinpath("nsswitch.conf").write_text("hosts: files dns\n")
        etc.joinpath("resolv.conf").write_text("")
        made.folder.joinpath("udhcpc").write_text(SCRIPT)
        made.folder.joinpath("udhcpc").chmod(0o755)
        try:
            if number > 2:
                _plug(made)
            yield made
        finally:
            if number > 2:
                subprocess.run(["ip", "netns", "del", made.namespace], check=False)
            shutil.rmtree(etc)
            with contextlib.suppress(OSError):
                ETC.rmdir()  # the last one


def _plug(made: Guest) -> None:
    subprocess.run(["ip", "netns", "add", made.namespace], check=True)
    port = f"g{made.number}"
    natlab.ip("natlabwire", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", made.namespace)
    natlab.ip("natlabwire", "link", "set", port, "master", made.bridge, "up")
    natlab.ip(made.namespace, "link", "set", "eth0", "address", colons(made.mac), "up")
