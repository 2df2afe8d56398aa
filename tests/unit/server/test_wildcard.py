"""Listeners that share sockets which are bound to all addresses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys

import pytest

from tests.unit.server.dnsbench import Bench, Script, question, run
from vmdns.server import wildcard
from vmdns.server.listeners import Listener
from vmdns.server.wildcard import bind_wildcard, encode_source, parse_destination

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows' sockets have no recvmsg")
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
everywhere = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127/8 as it stands")

IP_PKTINFO, IPV6_PKTINFO = wildcard._IP_PKTINFO, getattr(socket, "IPV6_PKTINFO", 0)
LO = socket.if_nametoindex("lo") if sys.platform == "linux" else 1
LINK_LOCAL = socket.inet_pton(socket.AF_INET6, "fe80::1")


@pytest.mark.parametrize(
    ("ancillary", "address"),
    [
        ([], ""),
        ([(socket.SOL_SOCKET, 29, b"")], ""),
        # Linux: the interface, the address that was found, the one in the packet; macOS leaves the second empty.
        ([(0, IP_PKTINFO, b"\2\0\0\0" + b"\xc0\xa8\x38\1" * 2)], "192.168.56.1"),
        ([(0, IP_PKTINFO, b"\2\0\0\0" + bytes(4) + b"\xc0\xa8\x38\1")], "192.168.56.1"),
        ([(0, IP_PKTINFO, b"\2\0\0\0" + b"\xc0\xa8\x38\1" + b"\xc0\xa8\x38\xff")], "192.168.56.255"),
        ([(41, IPV6_PKTINFO, bytes(15) + b"\1" + b"\2\0\0\0")], "::1"),
        ([(41, IPV6_PKTINFO, LINK_LOCAL + LO.to_bytes(4, sys.byteorder))], f"fe80::1%{socket.if_indextoname(LO)}"),
    ],
)
def test_destination(ancillary: wildcard.Ancillary, address: str) -> None:
    assert parse_destination(ancillary) == address


def test_source() -> None:
    assert encode_source("192.168.56.1") == [(0, IP_PKTINFO, bytes(4) + b"\xc0\xa8\x38\1" + bytes(4))]
    assert encode_source("::1") == [(41, IPV6_PKTINFO, bytes(15) + b"\1" + bytes(4))]
    scoped = encode_source(f"fe80::1%{socket.if_indextoname(LO)}")
    assert scoped == [(41, IPV6_PKTINFO, LINK_LOCAL + LO.to_bytes(4, sys.byteorder))]


def open_all(script: Script, *hosts: str) -> list[Bench]:
    """A server with listeners at these addresses and one port."""
    server = script.serve()
    benches: list[Bench] = []
    for host in hosts:
        port = benches[0].listener.port if benches else 0
        listener = bind_wildcard(host, port, server.listeners)
        server.open(listener)
        benches.append(Bench(server, listener, script))
    return benches


def reply_at(address: str, port: int) -> bytes:
    """What a client that is connected to this address, and so takes replies from there alone, receives; b"" for
    nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.settimeout(20)
        client.send(question("db.local"))
        with contextlib.suppress(ConnectionRefusedError):
            return client.recv(512)
    return b""


@everywhere
def test_each_address_is_answered_from_there_by_udp_and_tcp() -> None:
    async def main() -> None:
        benches = open_all(Script(), *HOSTS)
        assert len({bench.listener.udp for bench in benches}) == 1
        for bench in benches:
            packets = [question("db.local", ident=at) for at in range(50)]
            assert len(await bench.udp(*packets)) == 50
            assert (await bench.ask_tcp("db.local")).answer
        # Which address a client queried is known, so its view is that of its network.
        server = benches[0].server
        assert {local for _, local in server.udp.recent_clients} == set(HOSTS)
        assert server.udp.path == "one by one"
        await server.stop()

    run(main())


@everywhere
def test_another_address_of_this_host_gets_no_response() -> None:
    async def main() -> None:
        bench, *_ = open_all(Script(), *HOSTS[:2])
        port = bench.listener.port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((HOSTS[2], port))
            client.setblocking(False)
            client.send(question("db.local"))
            assert (await bench.ask("db.local")).answer  # which arrived later
            with pytest.raises(BlockingIOError):
                client.recv(512)
        reader, writer = await asyncio.open_connection(HOSTS[2], port)
        packet = question("db.local")
        writer.write(len(packet).to_bytes(2, "big") + packet)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert bench.server.handler.counts.queries == 1
        assert bench.server.handler.counts.tcp_connections == 0
        await bench.server.stop()

    run(main())


@everywhere
def test_listeners_come_and_go() -> None:
    async def main() -> None:
        script = Script()
        benches = open_all(script, *HOSTS)
        server, port = benches[0].server, benches[0].listener.port
        while benches:
            gone = benches.pop(0)
            server.close(gone.listener)
            for bench in benches:
                assert (await bench.ask("db.local")).answer
                assert (await bench.ask_tcp("db.local")).answer
        # The last one has closed the sockets: the port is free.
        listener = bind_wildcard(HOSTS[1], port, server.listeners)
        server.open(listener)
        assert (await Bench(server, listener, script).ask("db.local")).answer
        reply = await asyncio.to_thread(reply_at, HOSTS[1], port)
        assert reply[3] & 0xF == 0
        await server.stop()
        assert listener.udp.fileno() == listener.tcp.fileno() == -1

    run(main())


@everywhere
def test_the_socket_has_one_filter_against_floods() -> None:
    async def main() -> None:
        benches = open_all(Script(), *HOSTS)
        server = benches[0].server
        first, second, third = server.udp._open.values()
        assert first.filter.mute("192.0.2.1")
        assert not second.filter.mute("192.0.2.1"), "it is muted already"
        server.close(benches[0].listener)
        assert third.filter._networks, "the others still need it"
        await server.stop()
        assert not third.filter._networks

    run(main())


def test_ipv6_and_ipv4_beside_each_other() -> None:
    async def main() -> None:
        try:
            benches = open_all(Script(), "::1", "127.0.0.1")
        except OSError:
            pytest.skip("this host has no IPv6")
        assert len({bench.listener.udp for bench in benches}) == 2
        for bench in benches:
            assert (await bench.ask("db.local")).answer
            assert (await bench.ask_tcp("db.local")).answer
        await benches[0].server.stop()

    run(main())


def test_an_address_that_this_host_lacks_is_not_bound() -> None:
    with pytest.raises(OSError) as caught:
        bind_wildcard("192.0.2.1", 0, ())
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_sockets_that_are_bound_to_an_address_are_not_shared() -> None:
    one = bind_wildcard("127.0.0.1", 0, ())
    exact = Listener("127.0.0.1", one.port, one.udp, one.tcp)
    with pytest.raises(OSError) as caught:
        bind_wildcard("127.0.0.1", one.port, [exact])
    assert caught.value.errno == errno.EADDRINUSE
    one.close()
