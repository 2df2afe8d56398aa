"""A lab on a real VirtualBox: VMs of our own in a VirtualBox home of our own, and a vmdns beside them.

Nothing here touches the VMs of the user: VBOX_USER_HOME and VBOX_IPC_SOCKETID are new for each lab, so that it has
a VBoxSVC of its own too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.rcode

from tests.contract.test_run import Run
from tests.leases import lease_file, write_leases
from tests.program import PATIENCE
from vmdns.sources.installation import find

# Queries of guests of NAT Networks go to this address of the host in these tests; tools/live puts it on loopback.
DOOR = "198.18.53.1"
NET = "/VirtualBox/GuestInfo/Net"
ON_HOST_ONLY = ("--nic1", "hostonly", "--host-only-adapter1", "vboxnet0")
ON_LAN = ("--nic1", "bridged", "--bridge-adapter1", "lan0")
HOST_ONLY = "HostInterfaceNetworking-vboxnet0"  # its name for DHCP


def on_nat_network(name: str = "NatNetwork") -> tuple[str, ...]:
    return "--nic1", "natnetwork", "--nat-network1", name


def run(*command: str | Path, check: bool = True, seconds: float = 120, env: dict[str, str] | None = None) -> str:
    """Runs a command; what it prints. Fails with that and the errors."""
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
    )  # fmt: skip
    out = done.stdout.decode(errors="replace")
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: {out}{done.stderr.decode(errors='replace')}")
    return out


def ip(*words: str) -> str:
    return run("ip", *words)


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> Any:
    """Waits until the condition holds; its value. Fails with `what` and the last value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s; last {value!r}")
        time.sleep(0.02)


class Lab:
    """VirtualBox with a home of its own."""

    def __init__(self, folder: Path) -> None:
        installation = find(os.environ)
        assert installation is not None
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.word = "vmdns-" + uuids.uuid4().hex[:8]
        self._last_lease = 0  # Unix second
        self.vboxmanage = str(installation.vboxmanage)
        self.environ = {
            **os.environ,
            "VBOX_USER_HOME": str(self.home),
            "VBOX_IPC_SOCKETID": self.word,
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": "",
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }

    def vbm(self, *arguments: str, check: bool = True) -> str:
        """Runs VBoxManage; its output. Repeated where it meets a VBoxSVC that is about to end."""
        for _ in range(4):
            try:
                return self._vboxmanage(*arguments)
            except AssertionError as error:
                if "Failed to create the VirtualBox object" not in str(error):
                    break
                time.sleep(1)
        return self._vboxmanage(*arguments, check=check)

    def _vboxmanage(self, *arguments: str, check: bool = True) -> str:
        return run(self.vboxmanage, "-q", *arguments, check=check, env=self.environ)

    def vmdns(self, *words: str, check: bool = True) -> str:
        """Runs a command of vmdns; its output."""
        return run(sys.executable, "-m", "vmdns", *words, check=check, env=self.environ)

    def add_nat_network(self, name: str, prefix: str = "10.0.2.0/24") -> None:
        self.vbm("natnetwork", "add", "--netname", name, "--network", prefix, "--enable", "--dhcp", "on")

    def add_dhcp_server(self, network: str, net: str) -> None:
        self.vbm(
            "dhcpserver", "add", f"--network={network}", f"--server-ip={net}.2", "--netmask=255.255.255.0",
            f"--lower-ip={net}.3", f"--upper-ip={net}.254", "--enable",
        )  # fmt: skip

    def set_dhcp(self, network: str, *options: str) -> None:
        self.vbm("dhcpserver", "modify", f"--network={network}", *options)

    def nat_network(self, name: str = "NatNetwork") -> None:
        """A NAT Network whose guests send queries to DOOR, by a DHCP group as `vmdns wire` makes them."""
        self.add_nat_network(name)
        self.add_dhcp_server(name, "10.0.2")
        self.set_dhcp(name, "--group", "test", "--incl-mac-wild", "*", "--set-opt", "6", DOOR)

    def create(
        self, name: str, *options: str, groups: str = "/", wired: tuple[int, ...] = (0,), folder: str = "vms"
    ) -> str:
        """A VM that reaches Running here; options go to modifyvm, wired are the slots that are neither nat nor null."""
        base = str(self.folder / folder)
        text = self.vbm(
            "createvm", "--name", name, "--ostype", "Linux_64", "--register", "--basefolder", base, "--groups", groups
        )
        uuid = re.search(r"UUID: ([0-9a-f-]{36})", text)[1]  # type: ignore[index]
        self.vbm("modifyvm", uuid, "--memory", "32", "--vram", "1", "--audio-enabled", "off")
        # The interpreter needs no kernel module; where VirtualBox has no such engine it has a hypervisor.
        self.vbm("modifyvm", uuid, "--vm-execution-engine", "interpreter", check=False)
        if options:
            self.vbm("modifyvm", uuid, *options)
        for slot in wired:
            key = f"VBoxInternal/Devices/e1000/{slot}/LUN#0/Config/IgnoreConnectFailure"
            self.vbm("setextradata", uuid, key, "1")
        return uuid

    def start(self, uuid: str) -> None:
        self.vbm("startvm", uuid, "--type", "headless")

    def power_off(self, uuid: str, check: bool = True) -> None:
        self.vbm("controlvm", uuid, "poweroff", check=check)

    def discard(self, vm: str) -> None:
        """Ends and removes a VM, by its name or UUID."""
        self.power_off(vm, check=False)

        def gone() -> bool:
            self.vbm("unregistervm", vm, "--delete", check=False)  # fails while VirtualBox still uses it
            listed = self.vbm("list", "vms")
            return f'"{vm}"' not in listed and f"{{{vm}}}" not in listed

        until(gone, f"{vm} is gone")

    def start_vm(self, name: str, address: str, network: str = "NatNetwork") -> str:
        """A VM on this NAT Network that runs and has this lease."""
        uuid = self.create(name, *on_nat_network(network))
        self.lease(network, (self.mac(uuid), address))
        self.start(uuid)
        return uuid

    def info(self, uuid: str) -> str:
        return self.vbm("showvminfo", uuid, "--machinereadable")

    def mac(self, uuid: str, nic: int = 1) -> str:
        return re.search(rf'macaddress{nic}="(\w+)"', self.info(uuid))[1]  # type: ignore[index]

    def report(self, uuid: str, address: str, nic: int = 1, entry: int = 0, count: int = 1) -> None:
        """Sets the properties that Guest Additions would, the address last; flags as VBoxService's are stored.

        In a later second than the last lease, so that it is newer.
        """
        time.sleep(max(0.0, self._last_lease + 1 - time.time()))
        values = {"Count": str(count), f"{entry}/Status": "Up", f"{entry}/MAC": self.mac(uuid, nic)}
        for name, value in {**values, f"{entry}/V4/IP": address}.items():
            self.set_property(uuid, name, value, "--flags", "TRANSRESET")

    def set_property(self, uuid: str, name: str, value: str, *options: str) -> None:
        self.vbm("guestproperty", "set", uuid, f"{NET}/{name}", value, *options)

    def lease(self, network: str, *leases: tuple[str, str], seconds: int = 600, state: str = "acked") -> None:
        """Writes the lease file of a network the way VBoxNetDHCP does: (mac, address) pairs, renamed into place."""
        self._last_lease = int(time.time())
        write_leases(self.home, network, lease_file(leases, seconds=seconds, state=state))

    def processes(self, name: str) -> list[int]:
        """Our own processes of VirtualBox with this name."""
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                mine = f"VBOX_IPC_SOCKETID={self.word}".encode() in (process / "environ").read_bytes().split(b"\0")
                if mine and (process / "comm").read_text().strip()[:15] == name[:15]:
                    found.append(int(process.name))
        return found

    def process_of(self, uuid: str) -> int:
        """The process that runs this VM."""
        for pid in self.processes("VBoxHeadless") + self.processes("vboxheadless-dr"):
            if uuid.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError(f"no process runs {uuid}")

    def kill(self, name: str) -> None:
        """Kills our own processes with this name."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Powers everything off and waits until nothing of this lab runs."""
        for line in self.vbm("list", "runningvms", check=False).splitlines():
            self.power_off(line.rpartition("{")[2].rstrip("}"), check=False)
        deadline = time.monotonic() + 15
        names = ("VBoxHeadless", "vboxheadless-driverless", "VBoxSVC", "VBoxNetDHCP", "VBoxNetNAT")
        while any(self.processes(name) for name in names) and time.monotonic() < deadline:
            time.sleep(0.2)
        for name in names:
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)


class Server(Run):
    """A running `vmdns run` at this address and a free port; with none, at its default addresses."""

    def __init__(self, lab: Lab, *options: str, at: str = DOOR, start: Callable[..., Any] = subprocess.Popen) -> None:
        self.address = at or "127.0.0.1"
        listen = ["--listen", f"{at}:0"] if at else []
        super().__init__(lab.folder, *listen, *options, environ=lab.environ, start=start)
        self.saw("ready:")

    @property
    def port(self) -> int:
        return int(re.search(r"port (\d+)", self.saw("ready:"))[1])  # type: ignore[index]

    def dig(self, *arguments: str) -> str:
        """`dig` as a user would."""
        return run("dig", f"@{self.address}", "-p", str(self.port), "+time=3", "+tries=2", *arguments, check=False)

    def is_at(self, name: str, *addresses: str) -> None:
        """Waits until the name has exactly these addresses; none means NXDOMAIN."""
        if addresses:
            self.until(name, *addresses)
        else:
            until(lambda: self.ask(name).rcode() == dns.rcode.NXDOMAIN, f"{name} gone")


@contextlib.contextmanager
def serving(lab: Lab, *options: str, **how: Any) -> Iterator[Server]:
    server = Server(lab, *options, **how)
    try:
        yield server
    finally:
        server.stop()
