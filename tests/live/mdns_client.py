"""Another program on the link: python-zeroconf resolves or announces names; `query` sends one query by itself.

resolve NAME...           the addresses of each, one line of JSON
pointer ADDRESS           the name that the address points to
announce NAME ADDRESS     has that name until its input ends; prints a line once it has it
query NAME PORT SOURCE    a query by multicast from this port and address (of IPv4; of IPv6 an interface); prints each
                          response within a second as JSON: {from, port, hops, to, answers}
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import threading
import time
from ipaddress import ip_address

import dns.message
import dns.rdatatype
from zeroconf import (
    AddressResolver,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    IPVersion,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)

IP_PKTINFO, IP_RECVTTL, IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO = 8, 12, 51, 49


def resolve(zeroconf: Zeroconf, names: list[str]) -> None:
    found = {}
    for name in names:
        resolver = AddressResolver(f"{name}.")
        resolver.request(zeroconf, 3000.0)
        found[name] = sorted(resolver.parsed_addresses())
    print(json.dumps(found))


def pointer(zeroconf: Zeroconf, address: str) -> None:
    name = f"{ip_address(address).reverse_pointer}."
    heard = threading.Event()

    class Listener(RecordUpdateListener):
        def async_update_records(self, zc: Zeroconf, now: float, records: list) -> None:  # type: ignore[type-arg]
            for one in records:
                if isinstance(one.new, DNSPointer) and one.new.name == name:
                    print(json.dumps(one.new.alias), flush=True)
                    heard.set()

    zeroconf.add_listener(Listener(), None)
    out = DNSOutgoing(0)
    out.add_question(DNSQuestion(name, 12, 1))
    zeroconf.send(out)
    if not heard.wait(5):
        print("null")


def announce(zeroconf: Zeroconf, name: str, address: str) -> None:
    # It publishes a host's name only as that of a service.
    info = ServiceInfo(
        "_test._tcp.local.", f"{name.split('.')[0]} test._test._tcp.local.", port=1, server=f"{name}.",
        parsed_addresses=[address],
    )  # fmt: skip
    zeroconf.register_service(info)
    print(json.dumps(info.server), flush=True)
    sys.stdin.read()


def open_multicast(port: int, source: str) -> tuple[socket.socket, tuple[str, int]]:
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


def query(name: str, port: int, source: str) -> None:
    one, group = open_multicast(port, source)
    one.sendto(dns.message.make_query(name, "A").to_wire(), group)
    until = time.monotonic() + 1
    while (left := until - time.monotonic()) > 0 and select.select([one], [], [], left)[0]:
        packet, more, _, peer = one.recvmsg(9000, 1024)
        if not packet[2] & 0x80:
            continue
        ancillary = {kind: data for _, kind, data in more}
        hops = struct.unpack("@i", ancillary.get(2, ancillary.get(52, b"\0" * 4))[:4])[0]
        to = ancillary.get(8, b"")[8:12] or ancillary.get(50, b"")[:16]
        answers = [
            [rrset.name.to_text(), dns.rdatatype.to_text(rrset.rdtype)]
            for rrset in dns.message.from_wire(packet).answer
        ]
        line = {"from": peer[0], "port": peer[1], "hops": hops, "to": str(ip_address(to)), "answers": answers}
        print(json.dumps(line), flush=True)


def main(verb: str, *arguments: str) -> None:
    if verb == "query":
        query(arguments[0], int(arguments[1]), arguments[2])
        return
    zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        if verb == "resolve":
            resolve(zeroconf, list(arguments))
        else:
            {"pointer": pointer, "announce": announce}[verb](zeroconf, *arguments)
    finally:
        zeroconf.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
