"""Sockets for multicast DNS on several links of a host: each gets the packets of its own link, and no others'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.needs import needs_network_namespace

# Two cables, all four ends here. Packets from many ports: how the system may mistake the socket depends on them.
PLAY = """
import socket, subprocess, sys
from vmdns.mdns.packets import PORT
from vmdns.mdns.transport import GROUP4, open_socket

def put(name, value):
    open(f"/proc/sys/net/ipv4/conf/{name}", "w").write(value)

put("all/rp_filter", "0")
ends = {"left": "10.9.1.1", "right": "10.9.2.1"}
for name, address in ends.items():
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "far" + name], check=True)
    subprocess.run(["ip", "addr", "add", address + "/24", "dev", name], check=True)
    subprocess.run(["ip", "addr", "add", address[:-1] + "2/24", "dev", "far" + name], check=True)
    for end in (name, "far" + name):
        put(end + "/accept_local", "1")  # the sender is this host too
        put(end + "/rp_filter", "0")
        subprocess.run(["ip", "link", "set", end, "up"], check=True)
sockets = {name: open_socket(4, name, address) for name, address in ends.items()}
for number in range(64):
    name = ("left", "right")[number % 2]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        far = socket.inet_aton(ends[name][:-1] + "2")
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, far)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sender.sendto(name.encode(), (GROUP4, PORT))
for name, one in sockets.items():
    one.settimeout(5)
    for _ in range(32):
        assert one.recv(100) == name.encode(), f"a packet of the other link came to {name}"
    one.setblocking(False)
    try:
        assert one.recv(100) is None
    except BlockingIOError:
        pass
print("each its own")
"""


@needs_network_namespace
def test_each_link_has_its_own_packets() -> None:
    """Linux from 6.6 on gives a packet to any socket of those that share address and port by SO_REUSEPORT."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", PLAY],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "each its own\n", done.stderr
