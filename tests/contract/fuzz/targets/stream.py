"""However a stream is cut into pieces, each whole message in it is answered once; what is broken only ends it.

The first byte of the data says how the stream is cut. A message is answered at once, later, or not at all, as its
first byte says.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from tests.testzone import SNAPSHOT
from vmdns.dns.limits import Limits
from vmdns.server.client_limits import ClientLimits
from vmdns.server.listeners import bind
from vmdns.server.query_handler import Counters
from vmdns.server.tcp import TcpServer

LOOP = asyncio.SelectorEventLoop()  # that of Windows knows no readers
TROUBLE: list[object] = []
LOOP.set_exception_handler(lambda loop, context: TROUBLE.append(context))


def check(data: bytes) -> None:
    stream = data[1:20_000]
    cut = (data[0] if data else 0) * 7 + 1
    messages, ended = _messages(stream)
    got = LOOP.run_until_complete(_talk(stream, cut))
    assert not TROUBLE, TROUBLE
    wanted = Counter(message[:100] for message in messages)
    if ended:
        # Closed with something unread, so that the system may throw away what was answered.
        assert not Counter(got) - wanted, "an answer to nothing"
    else:
        assert Counter(got) == wanted, "not each message was answered once"


def _messages(stream: bytes) -> tuple[list[bytes], bool]:
    """The whole messages up to one that gets silence, and whether there is one."""
    found: list[bytes] = []
    at = 0
    while len(stream) - at >= 2:
        length = int.from_bytes(stream[at : at + 2], "big")
        message = stream[at + 2 : at + 2 + length]
        if len(message) < length:
            break
        if not message or message[0] & 3 == 3:
            return found, True
        found.append(message)
        at += 2 + length
    return found, False


def _resolve(message: bytes, peer: str, local: str) -> asyncio.Future[bytes]:
    answer: asyncio.Future[bytes] = LOOP.create_future()
    if not message or message[0] & 3 == 3:
        answer.set_result(b"")
    elif message[0] & 1:
        LOOP.call_later((message[0] & 7) / 10_000, _set_result, answer, message[:100])
    else:
        answer.set_result(message[:100])
    return answer


def _set_result(answer: asyncio.Future[bytes], response: bytes) -> None:
    if not answer.done():
        answer.set_result(response)


async def _talk(stream: bytes, cut: int) -> list[bytes]:
    """Sends the stream in pieces of that many bytes; the answers until the server closes."""
    loop = asyncio.get_running_loop()
    listener = bind("127.0.0.1", 0)
    connections = TcpServer(_resolve, ClientLimits(lambda: SNAPSHOT, Limits()), Counters())
    accepting = loop.create_task(connections.accept(listener, lambda address: True))
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            got: list[bytes] = []
            try:
                for at in range(0, len(stream), max(cut, len(stream) // 50)):
                    writer.write(stream[at : at + max(cut, len(stream) // 50)])
                    await asyncio.sleep(0)
                writer.write_eof()
                while True:
                    got.append(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
            except asyncio.IncompleteReadError as error:
                assert not error.partial, "half an answer"
            except OSError:
                pass
            writer.transport.abort()
            while len(connections):
                await asyncio.sleep(0)
            return got
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        loop.remove_reader(listener.tcp)
        listener.close()
