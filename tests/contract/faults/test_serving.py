"""Faults around a whole `vmdns run`, on loopback, during a stream of queries."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rrset
import pytest

from tests.contract.faults.stream import ASK_SECONDS, OUTSIDE, Upstream, ask, note, recovery, streaming
from tests.contract.test_run import PATIENCE, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="signals and limits as Linux has them"),
]

WWW = frozenset({"192.168.56.200"})
OURS = {"www.local": frozenset({WWW}), "nobody.lab.local": frozenset({frozenset({"NXDOMAIN"})})}
RECORDS = 'records = "www A 192.168.56.200"\n'
# How long the server is stopped, as by a sleep of the computer: a minute in the long form.
SLEEP_SECONDS = float(os.environ.get("VMDNS_FAULTS_SLEEP", "12"))


@pytest.fixture
def config(short: Path) -> Path:
    path = short / "given.toml"
    path.write_text(RECORDS)
    return path


@pytest.fixture
def started(short: Path, config: Path) -> Iterator[Any]:
    made: list[Run] = []

    def start(*options: str, **how: Any) -> Run:
        made.append(Run(short, "--config", str(config), *options, **how))
        made[-1].saw("ready:")
        return made[-1]

    yield start
    for one in made:
        one.process.send_signal(signal.SIGCONT) if one.process.poll() is None else None
        one.stop()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.socket.close()


def outside(run: Run, name: str) -> bool:
    return ask(name, "127.0.0.1", run.port, seconds=6.0) == frozenset({OUTSIDE})


def test_14_a_port_that_is_freed_is_taken_and_never_used_as_an_upstream(started: Any) -> None:
    """What is listened on later is known to the guard against asking ourselves, too."""
    holder = Upstream()
    taken = holder.port
    run = started("--listen", f"127.0.0.1:{taken}", "--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{taken}")
    port = next(int(line.split()[4]) for line in run.lines if line.startswith("listening on"))
    assert ask("a.example", "127.0.0.1", port) == frozenset({OUTSIDE})
    with streaming("14 port taken", "127.0.0.1", port, OURS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", taken))  # ends the holder's thread
        holder.join(PATIENCE)
        holder.socket.close()

        def good() -> bool:
            return ask("www.local", "127.0.0.1", taken, seconds=0.5) == WWW

        recovery("14 port freed", good, 30)
        run.saw("vmdns itself listens there")
        assert ask("b.example", "127.0.0.1", port) == frozenset({"SERVFAIL"})


@pytest.mark.parametrize("mood", ["dead", "servfail"])
def test_9_and_10_an_upstream_fails_and_comes_back(mood: str, started: Any, upstream: Upstream) -> None:
    run = started("--listen", "127.0.0.1:0", f"--upstream=127.0.0.1:{upstream.port}")
    assert outside(run, "a.example")
    with streaming(f"9 upstream {mood}", "127.0.0.1", run.port, OURS):
        for turn in range(2):  # it flaps
            upstream.mood = mood
            began = time.monotonic()
            said = ask(f"b{turn}.example", "127.0.0.1", run.port, seconds=PATIENCE)
            assert said == frozenset({"SERVFAIL"})
            assert time.monotonic() - began < PATIENCE / 2
            note(f"9 upstream {mood}", f"SERVFAIL after {time.monotonic() - began:.2f} s")
            assert ask("a.example", "127.0.0.1", run.port, seconds=PATIENCE) in (
                frozenset({OUTSIDE}), frozenset({"SERVFAIL"}),
            )  # fmt: skip
            upstream.mood = "well"
            recovery(f"9 upstream {mood} comes back", lambda turn=turn: outside(run, f"c{turn}.example"), 30)


def test_11_a_slow_upstream_delays_no_other_answers(started: Any, upstream: Upstream) -> None:
    run = started("--listen", "127.0.0.1:0", f"--upstream=127.0.0.1:{upstream.port}")
    upstream.delay = 1.0
    with streaming("11 upstream slow", "127.0.0.1", run.port, OURS):
        found: list[bool] = []
        threads = [threading.Thread(target=lambda n=n: found.append(outside(run, f"s{n}.example"))) for n in range(30)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(PATIENCE)
        assert found == [True] * 30


def test_5_vmdns_is_stopped_as_by_a_suspend(started: Any, upstream: Upstream) -> None:
    """After SIGSTOP and SIGCONT, queries of meanwhile are answered, and everything is read again."""
    run = started("--listen", "127.0.0.1:0", f"--upstream=127.0.0.1:{upstream.port}")
    assert outside(run, "a.example")
    before = len(run.lines)
    missed = int(SLEEP_SECONDS / ASK_SECONDS) + 2
    with streaming("5 sleep", "127.0.0.1", run.port, OURS, unanswered=missed):
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(SLEEP_SECONDS)  # it is the fault itself that lasts so long
        run.process.send_signal(signal.SIGCONT)
        recovery("5 sleep, our own names", lambda: ask("www.local", "127.0.0.1", run.port) == WWW, 10)
        recovery("5 sleep, forwarded names", lambda: outside(run, "b.example"), 10)
        assert "everything is looked at again" in run.saw("everything is looked at again", before)


_CLOCK = """
import sys, time
from pathlib import Path
real, file = time.time, Path(sys.argv[1])
def shifted():
    return real() + float(file.read_text() or 0)
time.time = shifted
from vmdns.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_6_the_wall_clock_jumps_by_an_hour_both_ways(started: Any, upstream: Upstream, short: Path) -> None:
    offset = short / "offset"
    offset.write_text("0")

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        how["env"]["PYTHONPATH"] = root
        return subprocess.Popen([sys.executable, "-c", _CLOCK, str(offset), *command[3:]], **how)

    run = started("--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{upstream.port}", start=start)
    assert outside(run, "a.example")
    with streaming("6 clock jumps", "127.0.0.1", run.port, OURS):
        for jump in ("3600", "0", "-3600", "0"):
            fresh = short / "fresh"
            fresh.write_text(jump)
            fresh.replace(offset)
            recovery(f"6 clock at {int(jump):+d} s", lambda jump=jump: outside(run, f"b{jump}.example"), 10)
            assert "pid" in run.command("status", "--json").stdout
    assert run.stop() == 0


def test_16_out_of_file_descriptors(started: Any, upstream: Upstream) -> None:
    run = started("--listen", "127.0.0.1:0", f"--upstream=127.0.0.1:{upstream.port}")
    assert outside(run, "a.example")
    pid = run.process.pid
    held = len(os.listdir(f"/proc/{pid}/fd"))
    import resource  # POSIX only

    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    idle: list[socket.socket] = []
    with streaming("16 out of file descriptors", "127.0.0.1", run.port, OURS):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (held + 4, before[1]))
        for _ in range(20):
            idle.append(socket.create_connection(("127.0.0.1", run.port), timeout=5))
        said = ask("b.example", "127.0.0.1", run.port, seconds=PATIENCE)
        assert said in (frozenset({"SERVFAIL"}), frozenset({OUTSIDE}))
        for one in idle:
            one.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        recovery("16 descriptors are there again", lambda: outside(run, "c.example"), 20)
        recovery("16 TCP again", lambda: run.ask("www.local", tcp=True).answer, 20)
    assert not [line for line in run.lines if "Traceback" in line]


def test_23_no_query_is_lost_while_the_configuration_changes(started: Any, config: Path) -> None:
    run = started("--listen", "127.0.0.1:0")
    with streaming("23 fifty configurations, good and bad", "127.0.0.1", run.port, OURS):
        texts = [RECORDS + "mdns = false\n", "recods = 1\n"] * 5
        for turn in range(50):
            text = f"{RECORDS}extra_{turn} = 1\n" if turn % 10 == 4 else texts[turn % 10]
            config.write_text(text)
            time.sleep(0.02)  # faster than they are applied, and slower
        config.write_text('records = """\nwww A 192.168.56.200\nlast A 192.168.56.201\n"""\n')
        last = frozenset({"192.168.56.201"})
        recovery("23 the last one is in force", lambda: ask("last.local", "127.0.0.1", run.port) == last, 10)


@pytest.mark.parametrize("tcp", [False, True])
def test_24_what_is_in_flight_is_answered_before_the_end(tcp: bool, started: Any, upstream: Upstream) -> None:
    run = started("--listen", "127.0.0.1:0", f"--upstream=127.0.0.1:{upstream.port}")
    upstream.delay = 0.4
    port, found = run.port, []

    def work() -> None:
        query = dns.message.make_query("a.example", "A")
        found.append((dns.query.tcp if tcp else dns.query.udp)(query, "127.0.0.1", port=port, timeout=PATIENCE))

    thread = threading.Thread(target=work)
    thread.start()
    while not upstream.queries:
        time.sleep(0.005)
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(PATIENCE) == 0
    thread.join(PATIENCE)
    assert [str(one.answer[0][0]) for one in found] == [OUTSIDE]
    note("24 SIGTERM", f"answered and ended with 0 after {time.monotonic() - began:.2f} s")


def test_24_after_kill_9_the_next_one_starts_at_once(started: Any) -> None:
    run = started("--listen", "127.0.0.1:0")
    port = run.port
    run.process.kill()
    run.process.wait(PATIENCE)
    began = time.monotonic()
    again = started("--listen", f"127.0.0.1:{port}")
    assert ask("www.local", "127.0.0.1", port) == WWW
    note("24 kill -9", f"the next one was ready {time.monotonic() - began:.2f} s after it was started")
    assert not [line for line in again.lines if "another vmdns" in line or "held" in line]
    assert again.command("status", "--json").returncode == 0


def test_15_a_log_on_a_full_disk_stops_nothing(short: Path, config: Path, upstream: Upstream) -> None:
    """/dev/full takes nothing (full(4))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    environ = {**os.environ, "HOME": str(short), "XDG_STATE_HOME": str(short), "XDG_RUNTIME_DIR": ""}
    command = [sys.executable, "-m", "vmdns", "run", f"--config={config}", f"--listen=127.0.0.1:{port}"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=full, stderr=full)
    try:
        nobody = frozenset({"NXDOMAIN"})  # SERVFAIL until VirtualBox was looked at
        good = lambda: ask("nobody.lab.local", "127.0.0.1", port, seconds=0.5) == nobody  # noqa: E731
        recovery("15 log on a full disk, started", good, 30)
        with streaming("15 log on a full disk", "127.0.0.1", port, OURS):
            config.write_text('records = "www A 192.168.56.200"\nmdns = false\n')  # which is said
            recovery("15 log on a full disk", lambda: ask("www.local", "127.0.0.1", port) == WWW, 10)
    finally:
        process.terminate()
    assert process.wait(PATIENCE) == 0
