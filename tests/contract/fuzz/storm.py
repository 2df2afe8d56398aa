"""Mutated packets by the hundred thousand to a live server on loopback:

    python tests/contract/fuzz/storm.py [--packets N] [--seed S]

A whole `vmdns run` with 200 simulated VMs and an upstream that answers everything gets them by UDP, and some by TCP.
Every packet that is a header at least and no response must be answered rightly, all else by silence; nothing may be
logged as an error, and the server may not grow. Prints what came, and the resident memory at each tenth.
"""

from __future__ import annotations

import argparse
import random
import re
import select
import socket
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.bench import world
from tests.bench.peers import ROOT, Server, free_port, resident, simulate_virtualbox, start_upstream, vmdns

HERE = Path(__file__).resolve().parent
NAMES = 200
PARTS = 10
WARM_PARTS = 5  # until what is kept has reached its bounds (10,000 forwarded answers) the server may grow
MAX_GROWTH = 16.0  # MiB, after that
WINDOW, TRIES, PATIENCE = 32, 4, 10.0
ODD = (0, 1, 0x0C, 0x29, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFF)
TROUBLE = re.compile(r"Traceback|Error\b|Exception|could not be|cannot be", re.IGNORECASE)


def seeds() -> list[bytes]:
    """The corpus of the datagram target, and questions that the simulated VMs answer."""
    found = [path.read_bytes()[1:] for path in sorted((HERE / "corpus" / "datagram").glob("[0-9a-f]*"))]
    mixed = [wire for wire, _, _ in world.mix(NAMES)[:200]] + [wire for wire, _, _ in world.forwarded(20)]
    return [one for one in found if len(one) <= 4096] + mixed


def start(folder: Path) -> tuple[Server, Server]:
    """The server, which answers when this returns, and its upstream."""
    places = folder / "server", folder / "resolver"
    for place in places:
        place.mkdir()
    # No multicast DNS: this storm stays on loopback.
    (places[0] / "vmdns.toml").write_text("mdns = false\nmdns_relay = false\n")
    simulate_virtualbox(places[0], NAMES)
    upstream = start_upstream(places[1], folder)
    try:
        targets = [f"127.0.0.1:{free_port()}"]
        command, env = vmdns(places[0], ROOT, targets, int(upstream.targets[0].split(":")[1]))
        server = Server(places[0], targets, [*command, "--config", str(places[0] / "vmdns.toml")], env)
        server.wait_for_answer(world.packet(world.name(1), world.A), lambda answer: answer[3] & 15 == 0)
    except BaseException:
        upstream.stop()
        raise
    return server, upstream


def mutate(rng: random.Random, packets: list[bytes], ident: int) -> bytes:
    """One of the packets with this id, changed up to six times, mostly behind its header."""
    packet = bytearray(rng.choice(packets))
    for _ in range(rng.randrange(7)):
        at = rng.randrange(12 if len(packet) > 12 and rng.randrange(4) else 0, len(packet) + 1)
        end = at + rng.randrange(1, 9)
        match rng.randrange(8):
            case 0:
                packet[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in packet[at : at + 1])
            case 1:
                packet[at : at + 1] = bytes((rng.choice(ODD),))
            case 2:
                packet[at:at] = rng.randbytes(end - at)
            case 3:
                del packet[at:end]
            case 4 if not rng.randrange(4):
                del packet[at:]
            case 5 if rng.randrange(2):
                packet[at:] = rng.choice(packets)[at:]
            case 6:
                packet[12:] = packet[12:].swapcase()
            case 7 if not rng.randrange(32):
                packet += rng.randbytes(rng.randrange(4096 - min(4096, len(packet)) + 1))
    packet[: min(2, len(packet))] = struct.pack("!H", ident)[: len(packet)]
    return bytes(packet)


def is_answered(packet: bytes) -> bool:
    return len(packet) >= 12 and not packet[2] & 0x80


def is_right(packet: bytes, answer: bytes) -> bool:
    """Whether the header is that of a response to this packet by UDP, and the question is the one asked, or none."""
    wanted = packet[2] & (0x78 if packet[2] & 0x78 else 0x79)  # RD is copied for QUERY alone
    if len(answer) < 12 or not answer[2] & 0x80 or answer[2] & 0x79 != wanted:
        return False
    if len(answer) > (1232 if packet[10] or packet[11] else 512):
        return False
    if len(answer) == 12:
        return answer[4:6] == b"\0\0"
    end = 12
    while end < len(packet) and 0 < packet[end] < 64:
        end += packet[end] + 1
    end += 5
    return end <= min(len(packet), len(answer)) and answer[4:6] == b"\0\1" and answer[12:end] == packet[12:end]


def by_udp(target: str, packets: list[bytes], count: int, rng: random.Random) -> Counter[str]:
    """What came of that many changed packets, sent a few at a time and again where no answer comes."""
    total: Counter[str] = Counter()
    address, port = target.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, int(port)))
        client.setblocking(False)
        for first in range(0, count, WINDOW):
            idents = [number & 0xFFFF for number in range(first, min(first + WINDOW, count))]
            sent = {ident: mutate(rng, packets, ident) for ident in idents}
            waiting = {ident: packet for ident, packet in sent.items() if is_answered(packet)}
            total.update(sent=len(sent), silent=len(sent) - len(waiting))
            for ident in sent.keys() - waiting.keys():
                client.send(sent[ident])
            for turn in range(TRIES):
                for packet in waiting.values():
                    client.send(packet)
                while waiting and select.select([client], [], [], 1.0 + turn)[0]:
                    answer = client.recv(65535)
                    ident = int.from_bytes(answer[:2], "big")
                    packet = sent.get(ident, b"")
                    if ident in waiting and is_right(packet, answer):
                        total.update(["answered", f"rcode {answer[3] & 15}"])
                    elif ident in waiting or (packet and not is_answered(packet)):
                        total["wrong"] += 1
                        print("wrong:", packet.hex(), answer.hex(), file=sys.stderr)
                    waiting.pop(ident, None)
            total["missing"] += len(waiting)
    return total


def by_tcp(target: str, packets: list[bytes], connections: int, rng: random.Random) -> int:
    """Twenty changed packets on each connection, after one with nonsense. How many got no right answer."""
    address, port = target.split(":")
    missing = 0
    for _ in range(connections):
        with socket.create_connection((address, int(port)), PATIENCE) as nonsense:
            nonsense.sendall(rng.randbytes(rng.randrange(200)))
        drawn = {ident: mutate(rng, packets, ident) for ident in rng.sample(range(65_536), 40)}
        sent = {ident: packet for ident, packet in drawn.items() if is_answered(packet)}
        with socket.create_connection((address, int(port)), PATIENCE) as client:
            for packet in sent.values():
                client.sendall(struct.pack("!H", len(packet)) + packet)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as stream:
                while len(head := stream.read(2)) == 2:
                    answer = stream.read(int.from_bytes(head, "big"))
                    if len(answer) >= 12 and answer[2] & 0x80:
                        sent.pop(int.from_bytes(answer[:2], "big"), None)
        missing += len(sent)
    return missing


def storm(packets: int, seed: int, folder: Path, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Runs it, with a line of progress after each part; the sum of all. faults is empty where all was right."""
    rng, questions = random.Random(seed), seeds()
    server, upstream = start(folder)
    total: Counter[str] = Counter()
    memory = []
    try:
        for _ in range(PARTS):
            total += by_udp(server.targets[0], questions, packets // PARTS, rng)
            memory.append(round(resident(server.pid), 1))
            progress(f"{total['sent']:,} sent, {total['missing']} missing, {total['wrong']} wrong, {memory[-1]} MiB")
        total["missing by TCP"] = by_tcp(server.targets[0], questions, max(10, packets // 10_000), rng)
        memory.append(round(resident(server.pid), 1))
        ended = server.process.poll() is not None
    finally:
        server.stop()
        upstream.stop()
    log = (server.folder / "log").read_text(errors="replace")
    faults = [f"{total[key]} {key}" for key in ("missing", "wrong", "missing by TCP") if total[key]]
    faults += [f"logged: {line}" for line in log.splitlines() if TROUBLE.search(line)][:5]
    faults += ["the server ended"] if ended else []
    if memory[-1] - memory[WARM_PARTS - 1] > MAX_GROWTH:
        faults.append(f"it grew from {memory[WARM_PARTS - 1]} to {memory[-1]} MiB")
    return {**total, "memory": memory, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description="changed packets to a live server")
    parser.add_argument("--packets", type=int, default=100_000, help="100,000 without it")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn; 1 without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vmdns-storm-") as folder:
        found = storm(given.packets, given.seed, Path(folder), partial(print, flush=True))
    for key, value in found.items():
        print(f"{key:14} {value}")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
