"""Two network namespaces with a cable between them: a host with an interface `lan0`, and a guest with `eth0`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.needs import no_named_namespace

GUEST_MAC = "080027000001"


def missing() -> str:
    """Why there can be no namespaces here; '' if there can."""
    return no_named_namespace()


class TwoHosts:
    """host and guest name the namespaces; `ip netns exec NAME` runs a command in one."""

    def __init__(self) -> None:
        self.host, self.guest = f"vmdns-h{os.getpid()}", f"vmdns-g{os.getpid()}"

    def ip(self, where: str, *arguments: str, feed: str = "") -> None:
        subprocess.run(["ip", "-n", where, *arguments], input=feed.encode(), check=True, capture_output=True)

    def run(self, where: str, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ip", "netns", "exec", where, *command], capture_output=True, check=False, timeout=30)

    def open(self) -> None:
        for name in (self.host, self.guest):
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            self.ip(name, "link", "set", "lo", "up")
        self.ip(self.host, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", self.guest)
        mac = ":".join(GUEST_MAC[at : at + 2] for at in range(0, 12, 2))
        self.ip(self.guest, "link", "set", "eth0", "address", mac)
        for name, one in ((self.host, "lan0"), (self.guest, "eth0")):
            self.ip(name, "link", "set", one, "up")

    def close(self) -> None:
        for name in (self.host, self.guest):
            with suppress(subprocess.CalledProcessError):
                subprocess.run(["ip", "netns", "del", name], check=True, capture_output=True)


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    hosts = TwoHosts()
    try:
        hosts.open()
        yield hosts
    finally:
        hosts.close()
