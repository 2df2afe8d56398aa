"""Strangers on a LAN: how long a question waits for the neighbour table, by a clock that is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine

import pytest

from tests import clock
from vmdns.daemon.admission import MOST_WAITING, SETTLE_SECONDS, STRANGER_SECONDS, WAIT_SECONDS, Admission, solicit

PEER = "192.168.1.77"


class Door:
    """An admission, who is known to be a guest, and how often it was looked."""

    def __init__(self) -> None:
        self.guests: set[str] = set()
        self.looks = 0
        self.solicited: list[str] = []
        self.admission = Admission(self.guests.__contains__, self.look, self.solicited.append)

    def look(self) -> None:
        self.looks += 1

    def learn(self, peer: str) -> None:
        self.guests.add(peer)
        self.admission.changed()

    async def waited(self, peer: str = PEER) -> float:
        """How long a question of this peer waits, in seconds."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await self.admission.admit(peer)
        return round(loop.time() - begun, 3)


def on_a_clock(test: Callable[[Door], Coroutine[object, object, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test(Door())

        clock.run(main())

    run.__name__ = test.__name__
    return run


@on_a_clock
async def test_a_guest_is_let_in_as_soon_as_it_is_known(door: Door) -> None:
    asyncio.get_running_loop().call_later(0.02, door.learn, PEER)
    assert await door.waited() == pytest.approx(0.02, abs=0.002)
    assert door.looks == 1


@on_a_clock
async def test_a_stranger_waits_for_the_look_and_not_again(door: Door) -> None:
    asyncio.get_running_loop().call_later(0.01, door.admission.looked)
    assert await door.waited() == pytest.approx(0.01 + SETTLE_SECONDS, abs=0.005)
    assert await door.waited() == 0.0
    assert (door.looks, door.solicited) == (1, [PEER])
    await asyncio.sleep(STRANGER_SECONDS)
    assert await door.waited() == pytest.approx(WAIT_SECONDS, abs=0.01)  # nobody looked
    assert door.looks == 2


@on_a_clock
async def test_a_stranger_that_turns_out_to_be_a_guest(door: Door) -> None:
    await door.waited()
    door.learn(PEER)
    door.guests.clear()
    assert await door.waited() > 0


@on_a_clock
async def test_equal_peers_wait_together(door: Door) -> None:
    asyncio.get_running_loop().call_later(0.02, door.learn, PEER)
    waits = await asyncio.gather(*(door.waited() for _ in range(5)))
    assert max(waits) < 0.03
    assert door.looks == 1


@on_a_clock
async def test_not_everybody_may_wait(door: Door) -> None:
    crowd = [asyncio.create_task(door.waited(f"192.168.2.{n}")) for n in range(MOST_WAITING)]
    await asyncio.sleep(0)
    assert await door.waited("192.168.3.1") == 0.0
    assert all(await asyncio.gather(*crowd))
    assert door.looks == MOST_WAITING


def test_the_host_is_made_to_look_for_a_neighbour() -> None:
    """One empty datagram to the discard port, and no trouble with what is no address or has no way to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        try:
            peer.bind(("127.0.0.53", 9))
        except OSError:
            pytest.skip("port 9 cannot be bound here")
        peer.settimeout(5)
        solicit("127.0.0.53")
        assert peer.recv(100) == b""
    for nobody in ("", "web", "fe80::1%nowhere0", "::1", "255.255.255.255"):
        solicit(nobody)
