"""One question by multicast, and what comes back in a second: lines of JSON {from, port, hops, to, answers}.

Arguments: NAME, the port to ask from, the address to ask from (of IPv4, or an interface of IPv6). A name of one
label asks for nothing and just listens.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from ipaddress import ip_address

import dns.message
import dns.rdatatype

IP_PKTINFO, IP_RECVTTL, IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO = 8, 12, 51, 49


def opened(port: int, source: str) -> tuple[socket.socket, tuple[str, int]]:
    if source[0].isalpha():
        index = socket.if_nametoindex(source)
        one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        one.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        one.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        member = ip_address("ff02::fb").packed + struct.pack("@I", index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        one.bind(("::", port))
        return one, ("ff02::fb", 5353)
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    one.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    mreqn = ip_address("224.0.0.251").packed + ip_address(source).packed + struct.pack("@i", 0)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, mreqn[:8])
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mreqn[4:8])
    one.bind(("", port))
    return one, ("224.0.0.251", 5353)


def main(name: str, port: int, source: str) -> None:
    one, group = opened(port, source)
    question = dns.message.make_query(name, "A")
    one.sendto(question.to_wire(), group)
    until = time.monotonic() + 1
    while (left := until - time.monotonic()) > 0 and select.select([one], [], [], left)[0]:
        packet, more, _, peer = one.recvmsg(9000, 1024)
        if not packet[2] & 0x80:
            continue
        told = {kind: data for _, kind, data in more}
        hops = struct.unpack("@i", told.get(2, told.get(52, b"\0" * 4))[:4])[0]
        to = told.get(8, b"")[8:12] or told.get(50, b"")[:16]
        answers = [
            [rrset.name.to_text(), dns.rdatatype.to_text(rrset.rdtype)]
            for rrset in dns.message.from_wire(packet).answer
        ]
        line = {"from": peer[0], "port": peer[1], "hops": hops, "to": str(ip_address(to)), "answers": answers}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
