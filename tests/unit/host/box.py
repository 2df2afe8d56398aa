"""A computer of its own for one test: network, processes, /etc and /run that are not this machine's.

Inside are a real systemd-resolved or dnsmasq, two DNS servers that note their queries, and vmdns as it is. Run as a
program in new namespaces (`inside`), it does one of resolver_scenarios.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode

from tests.contract.faults.stream import Upstream

ROOTS = [
    os.environ.get("VMDNS_HOST_ROOT", "/var/tmp/vmdns-host"),
    os.environ.get("VMDNS_CLIENTS", "/var/tmp/vmdns-clients"),
    "/var/tmp/vmdns-rig/var/tmp/vmdns-clients",
]
CHECKOUT = Path(__file__).resolve().parents[3]
PATIENCE = 30.0
ROUTER, OTHER = "192.0.2.53", "192.0.2.54"
USERS = {
    "passwd": b"systemd-resolve:x:990:990::/:/usr/sbin/nologin\nmessagebus:x:991:991::/:/usr/sbin/nologin\n",
    "group": b"systemd-resolve:x:990:\nmessagebus:x:991:\n",
}
# What systemd would do with our unit. This kernel may have no dummy interfaces: a pair of veth is up as well.
SYSTEMCTL = """#!/bin/sh
unit=/etc/systemd/system/vmdns-host.service
echo "systemctl $*" >>/run/systemctl.log
lines() { sed -n "s/^$1=-\\(.*\\)/\\1 || true/p; s/^$1=//p" $unit | sed 's/type dummy/type veth peer name vmdns0p/'; }
case "$*" in
    "reload systemd-resolved") kill -HUP "$(cat /run/resolved.pid)" ;;
    "restart vmdns-host.service")
        lines ExecStop | sh 2>/dev/null
        lines ExecStart | sed '1s/$/; ip link set vmdns0p up/' | sh -e ;;
    "disable --now vmdns-host.service") lines ExecStop | sh ;;
    daemon-reload | "enable vmdns-host.service") ;;
    *) exit 1 ;;
esac
"""


def roots() -> list[str]:
    """Where prepared roots are, each version once."""
    return list(dict.fromkeys(one for one in ROOTS if Path(one, ".ready").exists()))


def inside(scenario: str, root: str) -> None:
    """Runs a scenario in new namespaces."""
    command = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.unit.host.box", scenario, root],
        cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{scenario}: {done.stdout}{done.stderr}"


def same(found: object, expected: object) -> None:
    """Asserts that both are equal; pytest, which would show them, is not here."""
    assert found == expected, f"{found!r} instead of {expected!r}"


def until(condition: Callable[[], object], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {PATIENCE} s")
        time.sleep(0.05)
    return value


class Box:
    """The computer. etc and run are its folders, router and other its name servers."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = Path(tempfile.mkdtemp(prefix="box"))
        sh("mount", "--make-rprivate", "/")
        sh("mount", "-t", "proc", "proc", "/proc")
        self._folders()
        sh("ip", "link", "set", "lo", "up")
        self.link("lan0", "192.0.2.20/24")
        self.link("vboxnet0", "192.168.56.1/24")
        for address in (ROUTER, OTHER):
            sh("ip", "address", "add", f"{address}/32", "dev", "lo")
        self.router, self.other = Upstream(ROUTER, 53, "192.0.2.200", 5), Upstream(OTHER, 53, "192.0.2.201", 5)
        self._children: list[subprocess.Popen[bytes]] = []
        self.environ = {
            **os.environ,
            "HOME": str(self.folder / "home"), "XDG_STATE_HOME": str(self.folder / "state"), "XDG_RUNTIME_DIR": "",
            "XDG_CONFIG_HOME": str(self.folder / "config"), "VBOX_USER_HOME": str(self.folder / "vbox"),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "NO_COLOR": "1", "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    def _folders(self) -> None:
        etc = self.folder / "etc"
        (etc / "dbus-1" / "system.d").mkdir(parents=True)
        (etc / "systemd" / "system").mkdir(parents=True)
        for name in ("passwd", "group", "ld.so.cache", "ld.so.conf"):
            (etc / name).write_bytes(Path("/etc", name).read_bytes() + USERS.get(name, b""))
        (etc / "hosts").write_text("127.0.0.1 localhost\n")
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        (self.folder / "bin").mkdir()
        for target in ("/etc", f"{self.root}/etc"):
            sh("mount", "--bind", str(etc), target)
        sh("mount", "-t", "tmpfs", "tmpfs", "/run")
        sh("mount", "--bind", "/run", f"{self.root}/run")
        sh("mount", "-t", "proc", "proc", f"{self.root}/proc")
        sh("mount", "--rbind", "/dev", f"{self.root}/dev")
        self.program("systemctl", SYSTEMCTL)
        sh("mount", "-t", "sysfs", "-o", "ro", "sysfs", f"{self.root}/sys")  # no udev: links are ready as they come
        sh("mount", "-t", "tmpfs", "tmpfs", f"{self.root}/var/lib")
        for name in ("resolvectl", "getent"):
            self.program(name, f'#!/bin/sh\nexec chroot {self.root} {name} "$@"\n')

    def program(self, name: str, text: str) -> None:
        file = self.folder / "bin" / name
        file.write_text(text)
        file.chmod(0o755)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            command, env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._children.append(child)
        return child

    def bus(self) -> None:
        """Starts D-Bus, on a computer that systemd has started."""
        Path("/run/dbus").mkdir()
        Path("/run/systemd/system").mkdir(parents=True)
        self.start("chroot", self.root, "dbus-daemon", "--system", "--nofork", "--nopidfile")
        until(Path("/run/dbus/system_bus_socket").exists, "D-Bus")

    def network_manager(self, server: str) -> subprocess.Popen[bytes]:
        """Starts NetworkManager, which sets lan0 up with this name server."""
        Path("/etc/NetworkManager/NetworkManager.conf").write_text(
            # Not by the resolvconf that is systemd-resolved's.
            "[main]\nplugins=keyfile\nno-auto-default=*\nrc-manager=symlink\n"
            "[keyfile]\nunmanaged-devices=interface-name:*p;interface-name:vboxnet0\n"
            "[device]\nmatch-device=*\nmanaged=1\n"
        )
        self.program("nmcli", f'#!/bin/sh\nexec chroot {self.root} nmcli "$@"\n')
        # What is set up already, it would leave alone.
        sh("ip", "link", "set", "lan0", "down")
        sh("ip", "address", "flush", "dev", "lan0")
        Path(self.root, "var/lib/NetworkManager").mkdir(exist_ok=True)
        self.network(server)
        child = self.start("chroot", self.root, "NetworkManager", "--no-daemon")
        servers = Path("/run/NetworkManager/no-stub-resolv.conf")
        until(lambda: servers.exists() and server in servers.read_text(), "NetworkManager sets lan0 up")
        return child

    def network(self, server: str) -> None:
        """Sets the name server of lan0 in the configuration of NetworkManager."""
        file = Path("/etc/NetworkManager/system-connections/lan.nmconnection")
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            "[connection]\nid=lan\nuuid=11111111-2222-3333-4444-555555555555\ntype=ethernet\ninterface-name=lan0\n"
            f"[ethernet]\n[ipv4]\nmethod=manual\naddress1=192.0.2.20/24\ndns={server};\n[ipv6]\nmethod=disabled\n"
        )
        file.chmod(0o600)

    def resolved(self) -> None:
        """Starts systemd-resolved, with lan0's name server as by DHCP, and programs that query its stub."""
        self.bus()
        Path("/run/systemd/resolve").mkdir()
        os.chown("/run/systemd/resolve", 990, 990)
        daemon = self.start("chroot", self.root, "/usr/lib/systemd/systemd-resolved")
        Path("/run/resolved.pid").write_text(str(daemon.pid))
        until(Path("/run/systemd/resolve/io.systemd.Resolve").exists, "systemd-resolved")
        os.symlink("/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
        self.run("resolvectl", "dns", "lan0", ROUTER)

    def run(self, *command: str, check: bool = True) -> str:
        return sh(*command, environ=self.environ, check=check)

    def vmdns(self, *arguments: str, check: bool = True) -> str:
        return self.run(sys.executable, "-m", "vmdns", *arguments, check=check)

    def serve(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts `vmdns run` with a record for web, and waits until it is ready."""
        config = self.folder / "config" / "vmdns"
        config.mkdir(parents=True, exist_ok=True)
        (config / "vmdns.toml").write_text('records = "web A 192.168.56.101"\nhosts = false\n')
        log = (self.folder / "log").open("wb")
        child = subprocess.Popen(
            [sys.executable, "-m", "vmdns", "run", *arguments],
            env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        self._children.append(child)
        until(lambda: b"\nready" in (self.folder / "log").read_bytes(), "vmdns is ready")
        return child

    def end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        child.wait()

    def look_up(self, *names: str) -> list[str]:
        """The address that glibc finds for each name."""
        return [self.run("getent", "ahostsv4", name, check=False).partition(" ")[0] for name in names]

    def link(self, name: str, address: str) -> None:
        """Adds an interface that is up."""
        sh("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        sh("ip", "link", "set", f"{name}p", "up")
        sh("ip", "address", "add", address, "dev", name)
        sh("ip", "link", "set", name, "up")

    def query(self, *names: str) -> list[str]:
        """What vmdns answers for each name: an address, or the rcode."""
        found = []
        for name in names:
            reply = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", timeout=10)
            texts = [rdata.to_text() for rrset in reply.answer for rdata in rrset]
            found.append(texts[-1] if texts else dns.rcode.to_text(reply.rcode()))
        return found

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.vmdns("status", "--json")))

    def steps(self, *command: str) -> list[Any]:
        """What the command would do."""
        return list(json.loads(self.vmdns(*command, "--json"))["steps"])

    def upstreams(self) -> list[str]:
        """The servers to which vmdns forwards."""
        return sorted({one["address"] for one in self.status()["upstreams"]})

    def forwarded_domains(self) -> set[str]:
        """The domains that vmdns forwards to servers of their own."""
        return {domain for one in self.status()["upstreams"] for domain in one["domains"]}

    def files(self) -> dict[str, str]:
        """Every file below /etc, with what it is."""
        found = {}
        for path in sorted(Path("/etc").rglob("*")):
            if path.is_symlink():
                found[str(path)] = f"-> {os.readlink(path)}"
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
                found[str(path)] = f"{path.stat().st_mode:o} {path.stat().st_uid} {digest}"
        return found

    def close(self) -> None:
        for child in reversed(self._children):
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)


def sh(*command: str, environ: dict[str, str] | None = None, check: bool = True) -> str:
    """The output of a command, which must not fail if `check`."""
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


if __name__ == "__main__":
    scenario = importlib.import_module("tests.unit.host.resolver_scenarios").SCENARIOS[sys.argv[1]]
    box = Box(sys.argv[2])
    try:
        scenario(box)
    finally:
        box.close()
