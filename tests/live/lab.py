"""A lab on a real VirtualBox: VMs of our own in a VirtualBox home of our own, and a vmdns beside them.

Nothing here touches the VMs of the user: VBOX_USER_HOME and VBOX_IPC_SOCKETID are new for each lab, so that it has
a VBoxSVC of its own too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from vmdns.sources.installation import find

# The host's address at which guests of NAT Networks ask in these tests; tools/live puts it on the loopback interface.
DOOR = "198.18.53.1"
NET = "/VirtualBox/GuestInfo/Net"
# Reasons for waits: VBoxManage poll rounds take seconds on a busy machine with two cores.
PATIENCE = 60.0


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> object:
    """Waits until the condition holds, and returns what it gave. Fails with `what` and the last value."""
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
        """Runs VBoxManage; its output. Tried again where it meets a VBoxSVC that is just going."""
        for left in (3, 2, 1, 0):
            run = subprocess.run(
                [self.vboxmanage, "-q", *arguments],
                env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
            )  # fmt: skip
            if not check or not left or b"Failed to create the VirtualBox object" not in run.stderr:
                break
            time.sleep(1)
        if check and run.returncode:
            raise AssertionError(f"VBoxManage {' '.join(arguments)}: {run.stderr.decode(errors='replace')}")
        return run.stdout.decode(errors="replace")

    def nat_network(self, name: str, *options: str) -> None:
        """A NAT Network whose guests ask at DOOR, by a DHCP group as `vmdns wire` makes them."""
        self.vbm(
            "natnetwork", "add", "--netname", name, "--network", "10.0.2.0/24", "--enable", "--dhcp", "on", *options
        )
        self.vbm(
            "dhcpserver", "add", "--network", name, "--server-ip", "10.0.2.2", "--netmask", "255.255.255.0",
            "--lower-ip", "10.0.2.3", "--upper-ip", "10.0.2.254", "--enable",
        )  # fmt: skip
        self.vbm(
            "dhcpserver", "modify", "--network", name, "--group", "test", "--incl-mac-wild", "*", "--set-opt", "6", DOOR
        )

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

    def mac(self, uuid: str, nic: int = 1) -> str:
        return re.search(rf'macaddress{nic}="(\w+)"', self.vbm("showvminfo", uuid, "--machinereadable"))[1]  # type: ignore[index]

    def report(self, uuid: str, address: str, nic: int = 1, entry: int = 0, count: int = 1) -> None:
        """Sets the properties that Guest Additions would, the address last; flags as VBoxService's are stored.

        In a later second than the last lease, so that it is fresher.
        """
        time.sleep(max(0.0, self._last_lease + 1 - time.time()))
        values = {"Count": str(count), f"{entry}/Status": "Up", f"{entry}/MAC": self.mac(uuid, nic)}
        for name, value in {**values, f"{entry}/V4/IP": address}.items():
            self.vbm("guestproperty", "set", uuid, f"{NET}/{name}", value, "--flags", "TRANSRESET")

    def lease(self, network: str, *leases: tuple[str, str], seconds: int = 600, state: str = "acked") -> None:
        """Writes the lease file of a network the way VBoxNetDHCP does: (mac, address) pairs, renamed into place."""
        self._last_lease = int(time.time())
        write_leases(self.home, network, *leases, seconds=seconds, state=state)

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
        """Ends our own processes with this name the hard way."""
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Powers everything off and waits until nothing of this lab runs."""
        for line in self.vbm("list", "runningvms", check=False).splitlines():
            self.vbm("controlvm", line.rpartition("{")[2].rstrip("}"), "poweroff", check=False)
        deadline = time.monotonic() + 15
        names = ("VBoxHeadless", "vboxheadless-driverless", "VBoxSVC", "VBoxNetDHCP", "VBoxNetNAT")
        while any(self.processes(name) for name in names) and time.monotonic() < deadline:
            time.sleep(0.2)
        for name in names:
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)


def write_leases(
    home: Path, network: str, *leases: tuple[str, str], seconds: int = 600, state: str = "acked", issued: float = 0
) -> None:
    """A lease file as VBoxNetDHCP 7.2 writes it, renamed into place."""
    issued = int(issued or time.time())
    entries = "".join(
        f'  <Lease mac="{":".join(re.findall("..", mac.lower()))}" id="01{mac.lower()}" network="0.0.0.0" '
        f'state="{state}">\n    <Address value="{address}"/>\n    <Time issued="{issued}" expiration="{seconds}"/>\n'
        "  </Lease>\n"
        for mac, address in leases
    )
    file = home / f"{network}-Dhcpd.leases"
    fresh = file.with_name(file.name + "-tmp")
    fresh.write_text(f'<?xml version="1.0"?>\n<Leases version="1.0">\n{entries}</Leases>\n')
    if file.exists():
        file.replace(file.with_name(file.name + "-prev"))
    fresh.replace(file)


class Server:
    """A running `vmdns run` at this address and a free port; with none, wherever it listens by itself."""

    def __init__(self, lab: Lab, *options: str, at: str = DOOR, environ: dict[str, str] | None = None) -> None:
        self.lab = lab
        self.at = at or "127.0.0.1"
        listen = ["--listen", f"{at}:0"] if at else []
        self.lines: list[str] = []
        self._fresh: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmdns", "run", *listen, *options],
            env=environ or lab.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.saw("ready")
        self.port = int(re.search(r"port (\d+)", next(line for line in self.lines if line.startswith("ready")))[1])  # type: ignore[index]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self.lines.append(raw.decode(errors="replace").rstrip("\n"))

    def saw(self, text: str, after: int = 0) -> str:
        """Waits for a line with this text, from the line number `after` on; the line."""

        def look() -> str | None:
            return next((line for line in self.lines[after:] if text in line), None)

        try:
            return str(until(look, f"a line with {text!r}"))
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n" + "\n".join(self.lines)) from None

    def query(self, name: str, kind: str = "A", tcp: bool = False) -> dns.message.Message:
        question = dns.message.make_query(name, kind, use_edns=True)
        ask = dns.query.tcp if tcp else dns.query.udp
        return ask(question, self.at, port=self.port, timeout=5)

    def addresses(self, name: str, kind: str = "A", tcp: bool = False) -> list[str]:
        answer = self.query(name, kind, tcp).answer
        return sorted(
            str(rdata) for rrset in answer if rrset.rdtype == dns.rdatatype.from_text(kind) for rdata in rrset
        )

    def dig(self, *arguments: str) -> str:
        """`dig` as a user would, the short form."""
        command = ["dig", f"@{self.at}", "-p", str(self.port), "+time=3", "+tries=2", *arguments]
        run = subprocess.run(command, capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
        return run.stdout.decode()

    def is_at(self, name: str, *addresses: str) -> None:
        """Waits until the name has exactly these addresses; none means NXDOMAIN."""
        if not addresses:
            until(lambda: self.query(name).rcode() == dns.rcode.NXDOMAIN, f"{name} gone")
            return
        try:
            until(lambda: self.addresses(name) == sorted(addresses), f"{name} at {addresses}")
        except AssertionError as error:
            said = "\n".join(self.lines)
            raise AssertionError(f"{error}; now {self.addresses(name)}; it said:\n{said}") from None

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


@contextlib.contextmanager
def serving(lab: Lab, *options: str) -> Iterator[Server]:
    server = Server(lab, *options)
    try:
        yield server
    finally:
        server.stop()
