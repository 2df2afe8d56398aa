"""VMs that change all the time, known to a vmdns that runs with a simulated VirtualBox, and to an oracle."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import confs, world
from tests.contract.endurance.oracle import ABSENT, NOTHING, Oracle, Truth
from tests.live.lab import write_leases

ROOT = Path(__file__).resolve().parents[3]
NETWORK = f"HostInterfaceNetworking-{world.LINK}"
# Each on its own network's address of the host; a guest that is no VM asks from there.
HOST_DOOR, GUEST_DOOR, GUEST = "127.0.0.1", world.HOST, "10.77.250.5/16"
KINDS = ("A", "AAAA", "TXT", "HTTPS", "MX")
READY_SECONDS = 30.0


class Vm:
    """VM n. Even ones get their address from the lease file, odd ones (and VM 0) report it by Guest Additions."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mac = f"0800{number:08x}"
        self.uuid = f"00000000-0000-4000-8000-{number:012x}"
        self.label = f"vm{number:05d}"
        self.address = "" if self.number % 2 else world.address(number)
        self.running = True

    @property
    def leased(self) -> bool:
        return self.number % 2 == 0 and self.number > 0  # VM 0 has reported its address from the start

    def truth(self) -> dict[tuple[str, str], Truth]:
        """The answers about it."""
        told: dict[tuple[str, str], Truth] = {}
        for name in (f"{self.label}.local", f"{self.label}.vm.internal", f"{self.uuid}.local"):
            for kind in KINDS:
                told[name, kind] = NOTHING if self.running else ABSENT
            if self.running and self.address:
                told[name, "A"] = Truth(0, frozenset({self.address}))
        if self.address:
            pointer = Truth(0, frozenset({f"{self.label}.local."})) if self.running else ABSENT
            told[reverse(self.address), "PTR"] = pointer
        return told


class Vms:
    """All VMs. Each change is told to the oracle, then made."""

    def __init__(self, folder: Path, count: int, oracle: Oracle, seed: int = 1) -> None:
        self._folder = folder
        self._oracle = oracle
        self._lots = random.Random(seed)
        self._turn = 0
        self.all = [Vm(number) for number in range(count)]
        self.changes = 0
        (folder / "machines").write_text(str(count))
        os.mkfifo(folder / "orders")
        for one in self.all:
            oracle.tell(0.0, one.truth())
        self._write_leases()

    def settle(self) -> None:
        """Gives every VM that reports its address one."""
        for one in self.all:
            if not one.address:
                self._move(one)

    def change(self) -> None:
        """One VM starts, stops, is renamed or gets another address."""
        one = self._lots.choice(self.all[1:])
        what = self._lots.choice(("power", "name", "address", "address"))
        self.changes += 1
        if what == "power":
            self._become(one, running=not one.running)
            self._order(f"states {one.number} {one.number + 1}")
        elif what == "name":
            label = f"{'vm' if one.label.startswith('shop') else 'shop'}{one.number:05d}"
            self._become(one, label=label)
            self._order(f"name {one.number} {label}")
        else:
            self._move(one)

    def _move(self, one: Vm) -> None:
        self._turn += 1
        self._become(one, address=f"10.77.{100 + self._turn // 250 % 100}.{1 + self._turn % 250}")
        if one.leased:
            self._write_leases()
        else:
            self._order(f"address {one.number} {one.address}")

    def _become(self, one: Vm, **values: object) -> None:
        before = one.truth()
        for name, value in values.items():
            setattr(one, name, value)
        self._oracle.tell(time.monotonic(), {**dict.fromkeys(before, ABSENT), **one.truth()})

    def _order(self, text: str) -> None:
        with (self._folder / "orders").open("w") as pipe:
            pipe.write(text + "\n")

    def _write_leases(self) -> None:
        write_leases(
            self._folder, NETWORK, *((one.mac, one.address) for one in self.all if one.leased and one.address),
            seconds=86400, issued=time.time(),
        )  # fmt: skip


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


class Server:
    """A vmdns with the simulated VirtualBox in `folder`."""

    def __init__(self, folder: Path, upstream: int, *options: str) -> None:
        self.log = folder / "log"
        env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("VBOX_")},
            "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": "",
        }  # fmt: skip
        listen = [f"--listen={HOST_DOOR}:5301", f"--listen={GUEST_DOOR}:5301"]
        command = [*simulated_run(folder), *listen, f"--upstream=127.0.0.1:{upstream}", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + READY_SECONDS
        while b"\nready:" not in self.log.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def pids(self) -> dict[str, int]:
        """The server and its worker."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [int(word) for file in children for word in file.read_text().split()]
        return {"server": self.process.pid, **({"worker": found[0]} if found else {})}

    def stop(self) -> int:
        """Its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(5)


def simulated_run(folder: Path) -> list[str]:
    """`vmdns run` with the simulated VirtualBox of that folder."""
    return [sys.executable, str(confs.SERVER), str(ROOT), str(folder)]


def footprint(pid: int) -> tuple[int, int]:
    """Resident memory in KiB, and how many file descriptors are open."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(resident.split()[1]), len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def guest() -> Iterator[str]:
    """A network namespace with a guest's address, on the other end of the host's link; the path of its namespace."""
    child = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read _"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        child.stdout.readline()
        peer, inside = f"peer-{world.LINK}", ("nsenter", "--net", "--target", str(child.pid))
        for words in (
            ("ip", "link", "set", peer, "netns", str(child.pid)),
            (*inside, "ip", "addr", "add", GUEST, "dev", peer),
            (*inside, "ip", "link", "set", peer, "up"),
        ):
            subprocess.run(words, check=True)
        yield f"/proc/{child.pid}/ns/net"
    finally:
        child.kill()
        child.wait()


class Churn(threading.Thread):
    """So many changes a second until it is stopped."""

    def __init__(self, vms: Vms, rate: float) -> None:
        super().__init__(name="churn", daemon=True)
        self._vms, self._pause = vms, 1 / rate
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self._pause):
            self._vms.change()
