"""How long it takes from the first packet of a bridged VM to its name's answer, and what neighbours cost the server.

    sudo python tests/bench/firstpacket.py [guests] [VMs]

Network namespaces as host and guests, the worker with the kernel's own messages, and the table of the server; no
VirtualBox: the VMs are put into the store. A guest takes the time just before it sends a datagram to the host, which
the kernel precedes with an ARP question.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.facts import vm
from tests.unit.sources.twohosts import two_hosts
from vmdns.daemon.discovery import Discovery
from vmdns.sources.supervisor import Supervisor
from vmdns.state.facts import Machine, Neighbour, Network
from vmdns.state.guests import VmChange
from vmdns.state.policy import Policy
from vmdns.store import Store

LAN = Network("bridged", "lan0")
SEND = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 0))
now = time.time()
sock.sendto(b"x", ("10.77.0.1", 53))
print(now)
"""


def machines(count: int) -> dict[str, Machine]:
    return {f"machine:{one.uuid}": one for one in (vm(at, f"vm{at}", LAN) for at in range(1, count + 1))}


async def serve(count: int) -> None:
    """The server's part, in the host's namespace: prints a line for each VM that has an address."""
    store = Store(Policy())

    def print_addresses(changes: list[VmChange]) -> None:
        now = time.time()
        for change in changes:
            for one in change.after.addresses if change.after else ():
                print(one.address, now, flush=True)

    store.put("virtualbox", machines(count))
    discovery = Discovery(store, lambda text: None, lambda: None)
    discovery._stale_seconds = 3600.0  # the VMs stay though no VirtualBox is here
    supervisor = Supervisor("auto", None, 30.0, discovery._receive)
    task = asyncio.create_task(supervisor.run())
    while not store.reported("addresses"):
        await asyncio.sleep(0.01)
    store.subscribe(print_addresses)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    store.close()


def first_packets(guests: int, count: int) -> None:
    with two_hosts() as hosts:
        hosts.ip(hosts.host, "addr", "add", "10.77.0.1/16", "dev", "lan0")
        server = subprocess.Popen(
            ["ip", "netns", "exec", hosts.host, sys.executable, __file__, "serve", str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        assert server.stdout is not None
        assert server.stdin is not None
        while server.stdout.readline() != "ready\n":
            pass
        times = []
        for at in range(1, guests + 1):
            mac = f"08:00:27:00:{at // 256:02x}:{at % 256:02x}"
            address = f"10.77.1.{at}"
            hosts.ip(hosts.guest, "link", "set", "eth0", "down")
            hosts.ip(hosts.guest, "addr", "flush", "dev", "eth0")
            hosts.ip(hosts.guest, "link", "set", "eth0", "address", mac)
            hosts.ip(hosts.guest, "link", "set", "eth0", "up")
            hosts.ip(hosts.guest, "addr", "add", f"{address}/16", "dev", "eth0")
            sent = hosts.run(hosts.guest, sys.executable, "-c", SEND, address).stdout
            while not (line := server.stdout.readline()).startswith(address + " "):
                pass
            times.append(1000 * (float(line.split()[1]) - float(sent)))
        times.sort()
        print(f"{guests} guests, {count} VMs: first packet to the table's new snapshot: median")
        print(f"  {times[len(times) // 2]:.1f} ms, p90 {times[len(times) * 9 // 10]:.1f} ms, most {times[-1]:.1f} ms")
        server.stdin.close()
        server.wait(20)


async def cost(count: int) -> None:
    """What a neighbour costs the event loop with that many VMs: one that is a VM, and one that is none."""
    store = Store(Policy())
    store.put("virtualbox", machines(count))
    await store.wait_until_published()
    for what, number in (("is a VM", 7), ("is none", count + 7)):
        rounds = 50
        began = time.process_time()
        for at in range(rounds):
            seen = Neighbour("lan0", f"080027{number:06x}", f"10.77.2.{at + 1}", float(at))
            store.patch("neighbours", {f"{what}": seen})
            await store.wait_until_published()
        spent = 1000 * (time.process_time() - began) / rounds
        print(f"{count} VMs: a neighbour that {what} costs the server {spent:.2f} ms")
    store.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
    else:
        guests, count = (int(one) for one in [*sys.argv[1:], *("100", "1000")[len(sys.argv) - 1 :]])
        signal.alarm(600)
        asyncio.run(cost(count))
        first_packets(min(guests, 250), count)
