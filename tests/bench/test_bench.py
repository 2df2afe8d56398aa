"""The benchmarks run, in small, and their load generator tells right answers from wrong ones. Nothing is timed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("gcc", "taskset", "unshare", "ip")


def _namespaces() -> bool:
    if not all(map(shutil.which, TOOLS)) or not hasattr(os, "sched_getaffinity"):
        return False
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return subprocess.run(["unshare", *user, "--net", "true"], capture_output=True, check=False).returncode == 0


needs_tools = pytest.mark.skipif(
    sys.platform != "linux" or not _namespaces(), reason=f"needs Linux, network namespaces and {', '.join(TOOLS)}"
)

# Names that are there and not, answers that are right and wrong, and one that never comes, from a server made of those.
JUDGED = """
import json, socket, sys, threading
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.bench import world
from tests.bench.generator import Generator

def serve(server):
    while True:
        packet, peer = server.recvfrom(2048)
        label = packet[13:13 + packet[12]].decode().lower()
        body = packet[12:]
        address = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + socket.inet_aton(world.address(1))
        answers = {{
            "right": packet[:2] + b"\\x85\\0\\0\\1\\0\\1\\0\\0\\0\\0" + body + address,
            "address": packet[:2] + b"\\x85\\0\\0\\1\\0\\1\\0\\0\\0\\0" + body + address[:-1] + b"\\xff",
            "none": packet[:2] + b"\\x85\\0\\0\\1\\0\\0\\0\\0\\0\\0" + body,
            "rcode": packet[:2] + b"\\x85\\3\\0\\1\\0\\1\\0\\0\\0\\0" + body + address,
            "case": packet[:2] + b"\\x85\\0\\0\\1\\0\\1\\0\\0\\0\\0" + body.swapcase() + address,
            "cut": packet[:2] + b"\\x87\\0\\0\\1\\0\\1\\0\\0\\0\\0" + body + address,
            "query": packet[:2] + b"\\5\\0\\0\\1\\0\\1\\0\\0\\0\\0" + body + address,
        }}
        if label in answers:
            server.sendto(answers[label], peer)

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
def test_the_generator_judges_each_answer(tmp_path: Path) -> None:
    script = JUDGED.format(root=str(ROOT), folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr.decode()
    verdicts = {"right": [True, False, False], "silent": [False, False, True]}
    for what, found in json.loads(run.stdout).items():
        assert found == verdicts.get(what.partition(" ")[0], [False, True, False]), what


def _run(name: str, *options: str) -> bytes:
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "bench" / f"{name}.py"), *options],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout


@needs_tools
@pytest.mark.parametrize(("name", "tables"), [("forwarded", 2), ("light", 3)])
def test_a_benchmark_prints_its_tables(name: str, tables: int) -> None:
    sections = json.loads(_run(name, "--rounds", "1", "--seconds", "0.05", "--small", "--only", "vmdns", "--json"))
    assert [bool(one["rows"]) for one in sections if "title" in one] == [True] * tables
    assert all(isinstance(one["ok"], bool) for one in sections if "target" in one)


@needs_tools
@pytest.mark.parametrize("name", ["authoritative", "latency", "churn"])
def test_a_benchmark_that_takes_longer_starts(name: str) -> None:
    assert b"--rounds" in _run(name, "--help")
