"""The benchmarks run, in small, and their load generator detects wrong answers. Nothing is timed here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import no_network_namespace

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
needs_tools = pytest.mark.skipif(
    bool(no_network_namespace()) or not all(map(shutil.which, ("gcc", "taskset"))),
    reason=no_network_namespace() or "needs gcc and taskset",
)

# A server whose answers are right, wrong in one way each, or never sent.
CHECKED = """
import json, socket, struct, sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.bench import world
from tests.bench.frame import Generator

def serve(server):
    while True:
        packet, peer = server.recvfrom(2048)
        label = packet[13:13 + packet[12]].decode().lower()
        body = packet[12:]
        address = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + socket.inet_aton(world.address(1))
        answers = {{
            "right": (0x8500, 1, body + address),
            "address": (0x8500, 1, body + address[:-1] + b"\\xff"),
            "none": (0x8500, 0, body),
            "rcode": (0x8503, 1, body + address),
            "case": (0x8500, 1, body.swapcase() + address),
            "cut": (0x8700, 1, body + address),
            "query": (0x0500, 1, body + address),
        }}
        if label in answers:
            flags, count, rest = answers[label]
            server.sendto(packet[:2] + struct.pack("!5H", flags, 1, count, 0, 0) + rest, peer)

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
threading.Thread(target=serve, args=(server,), daemon=True).start()
folder = Path({folder!r})
generator = Generator(folder)
content = socket.inet_aton(world.address(1))
out = {{}}
for label in ("right", "address", "none", "rcode", "case", "cut", "query", "silent"):
    file = world.write(folder / label, [(world.packet(label + ".local", world.A), world.NOERROR, content)])
    for how in (["-r", "200"],) if label == "silent" else (["-n", "8"], ["-r", "200"], ["-n", "8", "-x", "1000"]):
        target = "127.0.0.1:%d" % server.getsockname()[1]
        found = generator.run(file, [target], 0.02, "-w", "0", *how)
        out[label + " " + how[-2]] = [found[key] > 0 for key in ("answered", "wrong", "missing")]
print(json.dumps(out))
"""


@needs_tools
def test_the_generator_checks_each_answer(tmp_path: Path) -> None:
    script = CHECKED.format(root=str(ROOT), folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr.decode()
    verdicts = {"right": [True, False, False], "silent": [False, False, True]}
    for what, found in json.loads(run.stdout).items():
        assert found == verdicts.get(what.partition(" ")[0], [False, True, False]), what


def _run(name: str, *options: str) -> bytes:
    command = [sys.executable, str(ROOT / "tests" / "bench" / f"{name}.py"), *options]
    run = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


@needs_tools
@pytest.mark.parametrize(("name", "tables"), [("forwarded", 2), ("light", 2)])
def test_a_benchmark_prints_its_tables(name: str, tables: int) -> None:
    sections = json.loads(_run(name, "--rounds", "1", "--seconds", "0.05", "--small", "--only", "vmdns", "--json"))
    assert [bool(one["rows"]) for one in sections if "title" in one] == [True] * tables
    assert all(isinstance(one["ok"], bool) for one in sections if "target" in one)


@needs_tools
@pytest.mark.parametrize("name", ["authoritative", "latency", "churn"])
def test_a_benchmark_that_takes_longer_starts(name: str) -> None:
    assert b"--rounds" in _run(name, "--help")
