"""Whatever a link receives, the responder never raises, and sends few packets, with its own records alone.

The data is a list of steps: a byte for what happens, and for a packet a byte of its length and the packet.
"""

from __future__ import annotations

import dns.message

from vmdns.dns.name import to_wire
from vmdns.mdns.packets import MAX_PACKET, PORT, parse_packet
from vmdns.mdns.responder import Responder, find_records

NAMES = {to_wire("web.local"): ("192.168.56.101", "fd00:56::101"), to_wire("db.local"): ("192.168.56.102",)}
OWNERS = set(find_records(NAMES))
SOURCES = ("192.168.56.101", "192.168.56.50", "fe80::7")
MAX_STEPS = 40
MAX_WAKES = 20


def _middle(least: float, most: float) -> float:
    return (least + most) / 2


def check(data: bytes) -> None:
    responder = Responder(_middle)
    now = 100.0
    responder.configure(NAMES, now)
    for _ in range(12):  # through probing and announcing
        now = max(now, responder.timeout() or now)
        responder.wake(now)
    responder.send()  # which is always the same
    at = steps = 0
    while at < len(data) and steps < MAX_STEPS:
        step, steps = data[at], steps + 1
        at += 1
        if step & 3 == 3:
            now += (step >> 2) / 8
            for _ in range(MAX_WAKES):
                due = responder.timeout()
                if due is None or due > now:
                    break
                responder.wake(now)
                _sound(responder, 0)
            else:
                raise AssertionError("it wakes up for ever")
            continue
        length = data[at] * (step >> 4 or 1) if at < len(data) else 0
        packet = data[at + 1 : at + 1 + length]
        at += 1 + length
        message = parse_packet(packet)
        if message is not None:
            responder.receive(message, SOURCES[step & 3], PORT if step & 4 else 40_000, now)
        _sound(responder, len(packet))


def _sound(responder: Responder, heard: int) -> None:
    out = responder.send()
    responder.conflicts()
    assert len(out) <= 2 + heard // 16, "more packets than questions"
    for one in out:
        assert len(one.packet) <= MAX_PACKET
        dns.message.from_wire(one.packet)
        message = parse_packet(one.packet)
        assert message is not None, "a packet that we would not read ourselves"
        for record in (*message.answers, *message.additionals):
            assert record.key in OWNERS, "a name that is not ours"
