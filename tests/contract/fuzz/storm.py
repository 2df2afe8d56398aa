"""Mutated packets by the million to a live server on loopback:

    python tests/contract/fuzz/storm.py [--packets N] [--seed S]

A whole `vmdns run` with 200 simulated VMs and an upstream that answers everything gets them by UDP (storm.c), and some
by TCP. Every packet that is a header at least and no response must be answered rightly, all else by silence; nothing
may be logged as an error, and the server may not grow. Prints what came, and the resident memory at each tenth.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.bench import world
from tests.bench.frame import LOAD_CORE, compile_program, pin
from tests.bench.peers import ROOT, Server, free_port, resident, simulate_virtualbox, start_upstream, vmdns

HERE = Path(__file__).resolve().parent
NAMES = 200
PARTS = 10
# Until what is kept has reached its bounds (10,000 forwarded answers, 8,192 loose ones) the server may grow.
WARMING = 0.2
MAX_GROWTH = 16.0  # MiB, after that
TROUBLE = re.compile(r"Traceback|Error\b|Exception|could not be|cannot be", re.IGNORECASE)
PATIENCE = 10.0


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


def mutate(rng: random.Random, packets: list[bytes]) -> bytes:
    """A packet that must be answered."""
    packet = bytearray(rng.choice(packets).ljust(12, b"\0"))
    for _ in range(rng.randrange(5)):
        packet[rng.randrange(len(packet))] = rng.randrange(256)
    packet[2] &= 0x7F
    return bytes(packet)


def by_tcp(target: str, packets: list[bytes], connections: int, seed: int) -> int:
    """Twenty changed packets on each connection, after one with nonsense. How many got no right answer."""
    rng = random.Random(seed)
    address, port = target.split(":")
    missing = 0
    for _ in range(connections):
        with socket.create_connection((address, int(port)), PATIENCE) as nonsense:
            nonsense.sendall(rng.randbytes(rng.randrange(200)))
        sent = {ident: mutate(rng, packets) for ident in rng.sample(range(65_536), 20)}
        with socket.create_connection((address, int(port)), PATIENCE) as client:
            for ident, packet in sent.items():
                packet = struct.pack("!H", ident) + packet[2:]
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
    questions = folder / "packets"
    questions.write_bytes(b"".join(struct.pack("!H", len(one)) + one for one in seeds()))
    program = compile_program("storm", folder, HERE)
    server, upstream = start(folder)
    total: dict[str, Any] = {}
    memory = []
    try:
        for part, share in enumerate((WARMING, *[(1 - WARMING) / PARTS] * PARTS)):
            command = pin(LOAD_CORE, program, str(round(packets * share)), str(seed + part), questions)
            done = subprocess.run([*command, server.targets[0]], stdout=subprocess.PIPE, text=True, check=True)
            for key, value in json.loads(done.stdout).items():
                total[key] = _sum(total[key], value) if key in total else value
            memory.append(round(resident(server.pid), 1))
            progress(f"{total['sent']:,} sent, {total['missing']} missing, {total['wrong']} wrong, {memory[-1]} MiB")
        connections = max(10, packets // 10_000)
        total["tcp"] = 20 * connections
        total["tcp_missing"] = by_tcp(server.targets[0], seeds(), connections, seed)
        memory.append(round(resident(server.pid), 1))
        ended = server.process.poll() is not None
    finally:
        server.stop()
        upstream.stop()
    log = (server.folder / "log").read_text(errors="replace")
    logged = [line for line in log.splitlines() if TROUBLE.search(line)]
    faults = [f"{total[key]} {key}" for key in ("missing", "wrong", "tcp_missing") if total[key]]
    faults += [f"logged: {line}" for line in logged[:5]]
    faults += ["the server ended"] if ended else []
    if memory[-1] - memory[0] > MAX_GROWTH:
        faults.append(f"it grew from {memory[0]} to {memory[-1]} MiB")
    return {**total, "memory": memory, "faults": faults}


def _sum(one: Any, other: Any) -> Any:
    return list(map(sum, zip(one, other, strict=True))) if isinstance(one, list) else round(one + other, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description="changed packets to a live server")
    parser.add_argument("--packets", type=int, default=100_000, help="100,000 without it")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn; 1 without it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vmdns-storm-") as folder:
        found = storm(given.packets, given.seed, Path(folder), partial(print, flush=True))
    for key, value in found.items():
        print(f"{key:12} {value}")
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
