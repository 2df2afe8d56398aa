"""VMs that change all the time, known to a vmdns that runs with a simulated VirtualBox, and to an oracle."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import world
from tests.bench.peers import ROOT, Server, order, replace_leases, status_field, vmdns, workers
from tests.contract.endurance.oracle import ABSENT, NOTHING, Oracle, Truth
from tests.leases import lease_file

# Each on its own network's address of the host; a guest that is no VM queries from GUEST.
HOST_TARGET, GUEST_TARGET, GUEST = "127.0.0.1:5301", f"{world.HOST}:5301", "10.77.250.5"
KINDS = ("A", "AAAA", "TXT", "HTTPS", "MX")


@contextmanager
def guest_namespace() -> Iterator[int]:
    """A network namespace with GUEST at the other end of vboxnet0; the id of a process in it."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read _"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        peer = f"peer-{world.LINK}"
        subprocess.run(["ip", "link", "set", peer, "netns", str(holder.pid)], check=True)
        for words in (f"addr add {GUEST}/16 dev {peer}", f"link set {peer} up"):
            subprocess.run(["nsenter", "-t", str(holder.pid), "-n", "ip", *words.split()], check=True)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


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
        truth: dict[tuple[str, str], Truth] = {}
        for name in (f"{self.label}.local", f"{self.label}.vm.internal", f"{self.uuid}.local"):
            for kind in KINDS:
                truth[name, kind] = NOTHING if self.running else ABSENT
            if self.running and self.address:
                truth[name, "A"] = Truth(0, frozenset({self.address}))
        if self.address:
            pointer = Truth(0, frozenset({f"{self.label}.local."})) if self.running else ABSENT
            truth[world.reverse_name(self.address), "PTR"] = pointer
        return truth


class Vms:
    """All VMs. Each change is reported to the oracle, then made."""

    def __init__(self, folder: Path, count: int, oracle: Oracle, seed: int = 1) -> None:
        self._folder = folder
        self._oracle = oracle
        self._rng = random.Random(seed)
        self._turn = 0
        self.all = [Vm(number) for number in range(count)]
        self.changes = 0
        (folder / "machines").write_text(str(count))
        os.mkfifo(folder / "orders")
        for one in self.all:
            oracle.add(0.0, one.truth())
        self._write_leases()

    def settle(self) -> None:
        """Gives every VM that reports its address one."""
        for one in self.all:
            if not one.address:
                self._move(one)

    def change(self) -> None:
        """One VM starts, stops, is renamed or gets another address."""
        one = self._rng.choice(self.all[1:])
        what = self._rng.choice(("power", "name", "address", "address"))
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
        self._oracle.add(time.monotonic(), {**dict.fromkeys(before, ABSENT), **one.truth()})

    def _order(self, text: str) -> None:
        order(self._folder, text)

    def _write_leases(self) -> None:
        leases = [(one.mac, one.address) for one in self.all if one.leased and one.address]
        replace_leases(self._folder, lease_file(leases, seconds=86400))


def start_server(folder: Path, upstream: int) -> Server:
    """A vmdns with the simulated VirtualBox in `folder`, which answers when this returns."""
    targets = [HOST_TARGET, GUEST_TARGET]
    command, env = vmdns(folder, ROOT, targets, upstream)
    server = Server(folder, targets, command, env)
    # SERVFAIL until VirtualBox was read.
    server.wait_for_answer(world.packet("nobody.vm.internal", world.A), lambda answer: answer[3] & 15 == 3)
    return server


def footprints(server: Server) -> dict[str, tuple[int, int]]:
    """Resident memory in KiB, and how many file descriptors are open, of the server and its worker."""
    pids = dict(zip(("server", "worker"), [server.pid, *workers(server.pid)], strict=False))
    found = {}
    for name, pid in pids.items():
        process = Path(f"/proc/{pid}")
        found[name] = status_field(process, "VmRSS"), len(os.listdir(process / "fd"))
    return found


class Churn(threading.Thread):
    """So many changes a second until it is stopped."""

    def __init__(self, vms: Vms, rate: float) -> None:
        super().__init__(name="churn", daemon=True)
        self._vms, self._pause = vms, 1 / rate
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self._pause):
            self._vms.change()
