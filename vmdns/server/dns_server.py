"""The DNS server: UDP and TCP on every listener (RFC 1035 section 4.2, RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from functools import partial

from vmdns.server.listeners import Listener
from vmdns.server.query_handler import QueryHandler
from vmdns.server.tcp import TcpServer
from vmdns.server.udp import UdpServer
from vmdns.state.snapshot import Snapshot


class DnsServer:
    """Answers on its listeners from the current snapshot, and forwards queries for external names."""

    def __init__(self, handler: QueryHandler) -> None:
        self.handler = handler
        self._thread = handler.forwarder.thread
        self.udp = UdpServer(self._thread, handler)
        self.tcp = TcpServer(partial(self.resolve, verify=True), handler.clients, handler.counts)
        self._accepting: dict[Listener, asyncio.Task[None]] = {}

    @property
    def listeners(self) -> list[Listener]:
        return list(self._accepting)

    def open(self, listener: Listener) -> None:
        """Starts answering on a listener."""
        self.handler.loop = asyncio.get_running_loop()
        if not self._accepting:
            self.publish(self.handler.current())
        self.udp.open(listener)
        shared = [task for one, task in self._accepting.items() if one.tcp is listener.tcp]
        accept = self.tcp.accept(listener, partial(self._is_open, listener.tcp)) if not shared else None
        self._accepting[listener] = shared[0] if accept is None else self.handler.loop.create_task(accept)

    def _is_open(self, tcp: socket.socket, address: str) -> bool:
        return any(one.tcp is tcp and one.address == address for one in self._accepting)

    def close(self, listener: Listener) -> None:
        """Stops answering on a listener; open connections stay."""
        if self._stop_listening(listener):
            listener.close()

    def _stop_listening(self, listener: Listener) -> bool:
        """Returns whether nothing uses its sockets any more."""
        self.udp.close(listener)
        task = self._accepting.pop(listener)
        if task in self._accepting.values():
            return False
        task.cancel()
        # Before it is closed: its file number may be reused at once.
        asyncio.get_running_loop().remove_reader(listener.tcp)
        return True

    async def stop(self, grace: float = 1.0) -> None:
        """Closes everything; pending queries have `grace` seconds to be answered."""
        listeners = self.listeners
        for listener in listeners:
            self._stop_listening(listener)
        if self.handler.awaited:
            await asyncio.wait(map(asyncio.wrap_future, list(self.handler.awaited)), timeout=grace)
        await self.handler.forwarder.close(grace)
        for listener in listeners:
            listener.close()
        await self.tcp.close(grace)

    def publish(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot."""
        self.handler.clients.forget_clients()
        self.handler.answer_cache.publish(snapshot)
        self.udp.forget_clients()

    def resolve(self, packet: bytes, peer: str, local: str, *, verify: bool = False) -> asyncio.Future[bytes]:
        """Returns the response by TCP to a packet from a peer to the host's address `local`; b"" for none.

        verify: whether the peer has connected from its address, which verifies that.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[bytes] = loop.create_future()

        def set_result(response: bytes) -> None:
            if not result.done():
                result.set_result(response)

        def respond(response: bytes) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(set_result, response)

        def answer() -> None:
            if verify:
                self.handler.clients.verify_address(peer)
            response = self.handler.answer(packet, peer, local, respond, tcp=True)
            if response is not None:
                respond(response)

        self._thread.submit(answer)
        return result
