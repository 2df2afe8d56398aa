"""Any bytes on the control channel get one line of JSON or an end, never an exception; so does a client from a server.

The first byte of the data chooses: a request to the server, or a response to the client.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Awaitable
from functools import partial
from typing import Any

from tests.contract.fuzz.targets.datagram import SERVER
from tests.testzone import SNAPSHOT
from vmdns.control.client import ControlError, read_lines
from vmdns.control.requests import Requests, query_server
from vmdns.control.server import MAX_REQUEST, ControlServer

LOOP = asyncio.new_event_loop()
REQUESTS = Requests(lambda: SNAPSHOT, tuple, SERVER.resolve, dict, dict)


class MemoryWriter:
    """A StreamWriter into memory, as far as it is used."""

    def __init__(self) -> None:
        self.out = b""

    def write(self, data: bytes) -> None:
        self.out += data

    async def drain(self) -> None:
        """There is always room."""


def check(data: bytes) -> None:
    if data[:1] >= b"\xe0":
        try:
            lines = list(read_lines(partial(io.BytesIO(data[1:]).read, 7)))
        except ControlError:
            return
        assert all(isinstance(line, dict) for line in lines)
        return
    LOOP.run_until_complete(_serve(data[1:], token=data[:1] >= b"\x80"))


def _handle(message: dict[str, Any]) -> Awaitable[dict[str, Any]]:
    """As Requests has it, without what lasts and what needs a whole status."""
    if message.get("do") in ("watch", "status"):
        message = {"do": "names"}
    if message.get("do") == "ask":
        return query_server(SERVER.resolve, SNAPSHOT, message)
    return REQUESTS.handle(message)  # type: ignore[return-value]


async def _serve(data: bytes, *, token: bool) -> None:
    server = ControlServer(loopback=token)
    server._handler = _handle
    server._token = "secret" if token else ""
    reader = asyncio.StreamReader(limit=MAX_REQUEST)
    reader.feed_data(data)
    reader.feed_eof()
    writer = MemoryWriter()
    try:
        line = await reader.readline()
    except ValueError:  # it is too long
        return
    await server._serve(line, reader, writer)  # type: ignore[arg-type]
    assert writer.out.count(b"\n") == 1
    assert writer.out.isascii()
    reply = json.loads(writer.out)
    assert isinstance(reply, dict)
    if token and b"secret" not in data and b"\\u" not in data:
        assert set(reply) == {"error"}, "an answer without the token"
