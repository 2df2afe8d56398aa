"""The worker process where there is no VirtualBox: it tells of the host all the same, and ends with its input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAM = """
from vmdns.sources import worker
worker.find = lambda environ: None
worker.ABSENT_SECONDS = 0.05
worker.main()
"""
OPTIONS = {"reader": "auto", "home": None, "interval": 30.0, "failures": 0, "pause": 0.0}


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    say(process, OPTIONS)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def say(process: subprocess.Popen[bytes], value: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()


def until(process: subprocess.Popen[bytes], key: str, value: object) -> list[dict[str, Any]]:
    """The messages up to the one in which that key has that value."""
    assert process.stdout is not None
    messages = []
    for line in process.stdout:
        messages.append(json.loads(line))
        if messages[-1].get(key) == value:
            return messages
    raise AssertionError(f"it ended, and said {messages}")


def test_without_virtualbox(worker: subprocess.Popen[bytes]) -> None:
    messages = until(worker, "beat", 3)
    assert [one for one in messages if "absent" in one] == [{"absent": True}]
    assert not any("lost" in one for one in messages)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the names of interfaces are those of Linux")
def test_the_host_is_told_of_without_virtualbox(worker: subprocess.Popen[bytes]) -> None:
    facts = until(worker, "put", "addresses")[-1]["facts"]
    loopback = {"is": "HostAddress", "interface": "lo", "prefix": "127.0.0.1/8", "alias": ""}
    assert facts["address:lo 127.0.0.1/8"] == loopback
    until(worker, "put", "neighbours")
    say(worker, ["nonsense"])
    say(worker, {"look": "neighbours"})
    until(worker, "looked", "neighbours")


def test_it_ends_with_its_input(worker: subprocess.Popen[bytes]) -> None:
    until(worker, "absent", True)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(10) == 0
