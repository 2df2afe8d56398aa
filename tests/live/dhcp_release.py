"""Sends one DHCPRELEASE (RFC 2131 section 4.4.4) as raw Ethernet: `dhcp_release.py INTERFACE ADDRESS SERVER ID`.

Raw, because a veth leaves UDP checksums to hardware that is not there, and VirtualBox's DHCP server checks them.
"""

from __future__ import annotations

import socket
import struct
import sys


def frame(mac: bytes, server_mac: bytes, address: str, server: str, identity: bytes) -> bytes:
    """The whole frame, with this client identifier (option 61); the usual one is hardware type 1 and the MAC."""
    client, to = socket.inet_aton(address), socket.inet_aton(server)
    bootp = struct.pack("!4B4sHH4s12s16s192s", 1, 1, 6, 0, b"vmdn", 0, 0, client, b"", mac, b"")
    options = b"\x63\x82\x53\x63\x35\x01\x07\x36\x04" + to + bytes([0x3D, len(identity)]) + identity + b"\xff"
    payload = (bootp + options).ljust(300, b"\0")
    udp = struct.pack("!4H", 68, 67, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, client, to)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return server_mac + mac + b"\x08\x00" + head + udp


def main() -> None:
    interface, address, server, identity = sys.argv[1:]
    with open("/proc/net/arp") as table:
        server_mac = next(line.split()[3] for line in table if line.split()[0] == server)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        to = bytes.fromhex(server_mac.replace(":", ""))
        raw.send(frame(raw.getsockname()[4], to, address, server, bytes.fromhex(identity)))


if __name__ == "__main__":
    main()
