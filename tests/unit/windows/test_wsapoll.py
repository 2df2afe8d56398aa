"""The selector for many sockets: with the poll(2) of this system in place of Windows' where this is not Windows."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Iterator
from selectors import EVENT_READ, EVENT_WRITE

import pytest

from vmdns.windows import wsapoll

IN, OUT, INVALID = 0x0300, 0x0010, 0x0004


def poll(address: int, count: int, milliseconds: int) -> int:
    """WSAPoll by poll(2)."""
    array = (ctypes.c_char * (16 * count)).from_address(address)
    waiting = select.poll()
    places = {}
    for at in range(count):
        number, events = struct.unpack_from("=Qh", array, 16 * at)
        wanted = (select.POLLIN if events & IN else 0) | (select.POLLOUT if events & OUT else 0)
        waiting.register(number, wanted)
        places[number] = 16 * at + 10
        struct.pack_into("=h", array, 16 * at + 10, 0)
    ready = waiting.poll(None if milliseconds < 0 else milliseconds)
    for number, events in ready:
        came = (IN if events & select.POLLIN else 0) | (OUT if events & select.POLLOUT else 0)
        came |= (INVALID if events & select.POLLNVAL else 0) | (2 if events & select.POLLHUP else 0)
        struct.pack_into("=h", array, places[number], came)
    return len(ready)


@pytest.fixture
def selector() -> Iterator[wsapoll.WsaPollSelector]:
    with wsapoll.WsaPollSelector(wsapoll.wsa_poll if sys.platform == "win32" else poll) as one:
        yield one


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as one:
        yield one


def pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """The waiting socket, and one that sends to it."""
    receiver = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind(("127.0.0.1", 0))
    sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender.connect(receiver.getsockname())
    return receiver, sender


def ready(selector: wsapoll.WsaPollSelector, timeout: float | None = 5) -> dict[object, int]:
    return {key.data: events for key, events in selector.select(timeout)}


def test_it_waits_for_more_sockets_than_select_takes(
    selector: wsapoll.WsaPollSelector, stack: contextlib.ExitStack
) -> None:
    pairs = [pair(stack) for _ in range(300)]
    for number, (receiver, sender) in enumerate(pairs):
        selector.register(receiver, EVENT_READ, number)
        selector.register(sender, EVENT_READ, "senders")  # 600 sockets in all
    for number in (0, 7, 299):
        pairs[number][1].send(b"x")
    found: dict[object, int] = {}
    while len(found) < 3:
        found |= ready(selector)
    assert found == dict.fromkeys((0, 7, 299), EVENT_READ)


def test_what_is_unregistered_is_no_longer_reported_and_the_others_are(
    selector: wsapoll.WsaPollSelector, stack: contextlib.ExitStack
) -> None:
    pairs = [pair(stack) for _ in range(4)]
    for number, (receiver, _) in enumerate(pairs):
        selector.register(receiver, EVENT_READ, number)
    for gone in (1, 3, 0):
        selector.unregister(pairs[gone][0])
    for _, sender in pairs:
        sender.send(b"x")
    assert ready(selector) == {2: EVENT_READ}
    selector.unregister(pairs[2][0])
    assert ready(selector, 0) == {}


def test_reading_and_writing_are_distinguished(selector: wsapoll.WsaPollSelector, stack: contextlib.ExitStack) -> None:
    receiver, sender = pair(stack)
    selector.register(receiver, EVENT_READ | EVENT_WRITE, "both")
    assert ready(selector) == {"both": EVENT_WRITE}
    sender.send(b"x")
    selector.modify(receiver, EVENT_READ, "read")
    assert ready(selector) == {"read": EVENT_READ}
    receiver.recv(9)
    assert ready(selector, 0) == {}


def test_the_end_of_a_connection_is_readable(selector: wsapoll.WsaPollSelector, stack: contextlib.ExitStack) -> None:
    one, other = socket.socketpair()
    stack.enter_context(one)
    selector.register(one, EVENT_READ, "end")
    other.close()
    assert ready(selector) == {"end": EVENT_READ}


def test_a_socket_that_was_closed_in_a_race_is_left_out(
    selector: wsapoll.WsaPollSelector, stack: contextlib.ExitStack
) -> None:
    closed, open_ = pair(stack)[0], pair(stack)
    selector.register(closed, EVENT_READ, "closed")
    selector.register(open_[0], EVENT_READ, "open")
    closed.close()
    open_[1].send(b"x")
    found: dict[object, int] = {}
    while not found:
        found = ready(selector)
    assert found == {"open": EVENT_READ}
    assert ready(selector) == {"open": EVENT_READ}
    selector.unregister(closed)
    assert ready(selector) == {"open": EVENT_READ}


def test_an_error_of_the_wait_is_raised() -> None:
    def fail(*_: object) -> int:
        raise OSError(10050, "the network is down")

    with wsapoll.WsaPollSelector(fail) as selector, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        selector.register(sock, EVENT_READ)
        with pytest.raises(OSError, match="down"):
            selector.select(1)
