"""A LAN and a host-only network with guests on them: namespaces of their own, plugged in with a VM's MAC.

A guest runs in the root that `prepare` makes, with an /etc, /run and process table of its own; the files of its
resolver are written by its DHCP client from what DHCP gave, nothing is typed.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from tests.live.lab import ip, until
from tests.live.lab import run as run_command

ROOT = Path(os.environ.get("VMDNS_CLIENTS", "/var/tmp/vmdns-clients"))
# The rig's root is no mount point, so nothing can be said of how mounts propagate; they stay in the namespace.
BOOT = """
    mount --bind "$1" "$1"
    mount -t tmpfs tmpfs "$1/run"
    mount -t tmpfs tmpfs "$1/tmp"
    cp -a "$1/etc" "$1/tmp/etc"
    mount --bind "$1/tmp/etc" "$1/etc"
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
    hostname "$2"
    ip link set lo up
    exec chroot "$1" busybox sh -c "echo up; exec busybox sleep infinity"
"""


def unavailable() -> str:
    """Why there can be no guests here; '' if there can."""
    if os.geteuid() != 0:
        return "guests in namespaces need root"
    if "peer-lan0" not in {name for _, name in socket.if_nameindex()}:
        return "there is no wire of lan0: tools/live makes it"
    return "" if (ROOT / ".ready").exists() else f"no resolvers in {ROOT}: tests/live/clients/prepare gets them"


class Wire:
    """What an interface of the host leads to: a bridge, which is no part of the host, and who is plugged in."""

    def __init__(self, interface: str) -> None:
        self.bridge = f"wire-{interface}"  # VirtualBox takes whatever begins with vboxnet for its own
        self.plugs = 0
        ip("link", "add", self.bridge, "type", "bridge")
        # The host's kernel must not speak for its addresses on this side too.
        Path(f"/proc/sys/net/ipv4/conf/{self.bridge}/arp_ignore").write_text("8")
        Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6").write_text("1")
        ip("link", "set", f"peer-{interface}", "master", self.bridge)
        ip("link", "set", self.bridge, "up")

    def plug(self, mac: str, pid: int) -> str:
        """Gives the network namespace of this process an eth0 on the wire; the other end of its cable."""
        self.plugs += 1
        port = f"{self.bridge[:9]}-{self.plugs}"
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid), "address", colons(mac))
        ip("link", "set", port, "master", self.bridge, "up")
        return port

    def close(self) -> None:
        ip("link", "del", self.bridge)


class Guest:
    """A computer on a wire."""

    def __init__(self, wire: Wire, mac: str, name: str) -> None:
        self.name = name
        self._daemons: dict[str, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--uts", "--fork"]
        self._boot = subprocess.Popen(
            [*command, "--kill-child", "--propagation", "unchanged", "sh", "-euc", BOOT, "sh", str(ROOT), name],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._boot.stdout is not None
        if self._boot.stdout.readline() != b"up\n":
            raise AssertionError(f"guest {name} does not start")
        self.pid = int(Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children").read_text())
        self._port = wire.plug(mac, self.pid)
        self.run("busybox", "ip", "link", "set", "eth0", "up")

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "-r", "-w", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """What a command in the guest prints."""
        return run_command(*self._inside(*command), check=check, seconds=60)

    def start(self, *command: str, ready: str) -> None:
        """Starts a daemon, and waits until this file of the guest is there."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - it is open for as long as the daemon runs
        daemon = subprocess.Popen(
            self._inside(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )  # fmt: skip
        self._daemons[command[0]] = daemon, log

        def look() -> bool:
            if daemon.poll() is not None:
                raise AssertionError(f"{self.name}: {' '.join(command)} ended: {self.log(command[0])}")
            return self.has(ready)

        until(look, f"{command[0]} in {self.name}")

    def log(self, daemon: str) -> str:
        """What a daemon of the guest has printed."""
        log = self._daemons[daemon][1]
        return os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")

    def has(self, path: str) -> bool:
        """Whether this file of the guest is there."""
        return Path(f"/proc/{self.pid}/root{path}").exists()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file of the guest."""
        file = Path(f"/proc/{self.pid}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def static(self, prefix: str) -> None:
        """Gives it an address of its own choice."""
        self.run("busybox", "ip", "addr", "add", prefix, "dev", "eth0")

    def dhcp(self, configure: str) -> None:
        """Takes a lease; `configure` are shell lines that set up the resolver by $dns, $domain and $search."""
        script = (
            '#!/bin/sh -e\n[ "$1" = bound ] || exit 0\n'
            "ip addr add $ip/$mask dev $interface\n"
            '[ -z "$router" ] || ip route add default via $router\n' + configure + "echo >/run/configured\n"
        )
        self.write("/etc/udhcpc", script, 0o755)
        options = f"-i eth0 -f -q -n -t 20 -T 1 -O search -x hostname:{self.name} -s /etc/udhcpc"
        output = self.run("busybox", "sh", "-c", f"rm -f /run/configured; exec udhcpc {options} 2>&1")
        if not self.has("/run/configured"):
            raise AssertionError(f"{self.name}: its DHCP client did not end what it does with a lease: {output}")

    @property
    def address(self) -> str:
        """Its IPv4 address."""
        found = re.search(r"inet ([\d.]+)", self.run("busybox", "ip", "-4", "addr", "show", "dev", "eth0"))
        assert found is not None
        return found[1]

    def close(self) -> None:
        ip("link", "del", self._port)  # at once: the namespace itself goes some time later
        self._boot.kill()  # takes all of the guest along
        self._boot.wait(10)
        assert self._boot.stdout is not None
        self._boot.stdout.close()
        for daemon, log in self._daemons.values():
            daemon.wait(10)
            log.close()


class Dhcp(Guest):
    """The DHCP server of a wire, a real dnsmasq, at this address of a /24.

    resolver and domains are what it hands out as options 6, 15 and 119; without a resolver it hands out itself, who
    knows no name. leased is a MAC and the address that is kept for it.
    """

    def __init__(
        self,
        wire: Wire,
        own: str,
        *,
        resolver: str = "",
        domains: tuple[str, ...] = (),
        leased: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(wire, "0200c0000201", "router")
        self.static(f"{own}/24")
        options = [f"option:dns-server,{resolver or own}"]
        if domains:
            options += [f"option:domain-name,{domains[0]}", f"option:domain-search,{','.join(domains)}"]
        net = own.rpartition(".")[0]
        self.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts",
            "--local=/#/", "--no-ping", "--dhcp-authoritative", "--dhcp-leasefile=/run/leases", "--log-facility=-",
            "--pid-file=/run/dnsmasq.pid", f"--dhcp-range={net}.100,{net}.199,600",
            *([f"--dhcp-host={colons(leased[0])},{leased[1]}"] if leased[0] else []),
            *(f"--dhcp-option={option}" for option in options),
            ready="/run/dnsmasq.pid",
        )  # fmt: skip


def colons(mac: str) -> str:
    """A MAC as everybody but VirtualBox writes it."""
    return ":".join(re.findall("..", mac.lower()))
