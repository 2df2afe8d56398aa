"""Plays a host on which a VPN changes the name servers, without IPv6: run by test_network.py in namespaces of its own.

    unshare --net --mount python vpn.py FOLDER

FOLDER/etc becomes /etc. Prints what was found, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.contract.faults.stream import Stream, ask
from tests.contract.test_run import Run

FIRST, SECOND = "127.0.0.2", "127.0.0.3"
OURS = {"www.local": frozenset({frozenset({"192.168.56.200"})})}
# An upstream at that address: what it answers tells which one it is.
_UPSTREAM = """
import socket, sys
import dns.message, dns.rrset
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((sys.argv[1], 53))
while True:
    packet, peer = one.recvfrom(4096)
    query = dns.message.from_wire(packet)
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", sys.argv[2]))
    one.sendto(reply.to_wire(), peer)
"""


def resolv_conf(folder: Path, *servers: str) -> None:
    """As network managers write it: beside it, then renamed."""
    fresh = folder / "etc" / "resolv.conf.fresh"
    fresh.write_text("".join(f"nameserver {one}\n" for one in servers))
    fresh.replace(folder / "etc" / "resolv.conf")


def until(name: str, address: str) -> float:
    """Seconds until a name that was never asked before has this address; a bound of 20."""
    began = time.monotonic()
    for turn in range(2000):
        if ask(f"{name}{turn}.example", "127.0.0.1", 53, seconds=6.0) == frozenset({address}):
            return time.monotonic() - began
        time.sleep(0.01)
        if time.monotonic() - began > 20:
            break
    raise AssertionError(f"{name}: never {address}")


def play(folder: Path) -> dict[str, Any]:
    etc = folder / "etc"
    for words in (
        ("mount", "--make-rprivate", "/"),
        ("mount", "--bind", str(etc), "/etc"),
        ("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"),
        ("ip", "link", "set", "lo", "up"),
    ):
        subprocess.run(words, check=True)
    resolv_conf(folder, "127.0.0.1", FIRST)  # the host asks vmdns itself, which is not to ask itself
    config = folder / "given.toml"
    config.write_text('records = "www A 192.168.56.200"\n')
    upstreams = [
        subprocess.Popen([sys.executable, "-c", _UPSTREAM, where, address])
        for where, address in ((FIRST, "93.184.216.2"), (SECOND, "93.184.216.3"))
    ]
    run = Run(folder, "--config", str(config))
    try:
        run.saw("ready:")
        found: dict[str, Any] = {"first": until("a", "93.184.216.2")}
        ask("kept.example", "127.0.0.1", 53)
        stream = Stream("127.0.0.1", 53, OURS)
        stream.start()
        resolv_conf(folder, "127.0.0.1", SECOND)
        found["changed"] = until("b", "93.184.216.3")
        found["kept"] = sorted(ask("kept.example", "127.0.0.1", 53))  # another network may know other things
        os.unlink(etc / "resolv.conf")
        run.saw("cannot be found out")
        found["gone"] = sorted(ask("kept.example", "127.0.0.1", 53))
        resolv_conf(folder, FIRST)
        found["back"] = until("c", "93.184.216.2")
        stream.stop()
        found.update(wrong=stream.wrong, unanswered=stream.unanswered, answered=stream.answered)
        found["status"] = run.stop()
        found["said"] = run.lines
    finally:
        run.stop()
        for one in upstreams:
            one.kill()
            one.wait()
    return found


if __name__ == "__main__":
    print(json.dumps(play(Path(sys.argv[1]))))
