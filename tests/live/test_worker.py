"""What the worker process reports of a real VirtualBox, by either reader."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.live.lab import HOST_ONLY, Lab, until
from tests.program import PATIENCE
from vmdns.sources.supervisor import Supervisor


class Worker:
    """A worker, and the facts that it has reported so far."""

    def __init__(self, lab: Lab, reader: str) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        options = {"reader": reader, "home": None, "interval": 30.0, "failures": 0, "pause": 0.0}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vmdns.sources.worker"],
            env=lab.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(options).encode() + b"\n")
        self.process.stdin.flush()
        self.settled = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("put") == "virtualbox":
                self.settled.set()
            for key, fact in message.get("facts", {}).items():
                if fact is None:
                    self.facts.pop(key, None)
                else:
                    self.facts[key] = fact

    def name_servers(self, network: str) -> list[str] | None:
        fact = self.facts.get(f"dhcp:{network}")
        return None if fact is None else fact["name_servers"]


@contextmanager
def working(lab: Lab, reader: str) -> Iterator[Worker]:
    worker = Worker(lab, reader)
    try:
        assert worker.settled.wait(60)
        yield worker
    finally:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        worker.process.wait(20)


@pytest.mark.parametrize("reader", ["api", "vboxmanage"])
def test_the_name_servers_that_dhcp_hands_out(lab: Lab, reader: str) -> None:
    def becomes(network: str, *expected: str) -> None:
        began = time.monotonic()
        until(lambda: worker.name_servers(network) == list(expected), f"{network} hands out {expected}")
        took = time.monotonic() - began
        print(f"{reader}: {network} hands out {' '.join(expected) or 'nothing'}: seen {took:.3f} s after VBoxManage")

    with working(lab, reader) as worker:
        # VirtualBox writes VirtualBox.xml with the first change of its settings.
        assert worker.name_servers(HOST_ONLY) in (None, [])
        # No NAT Network: VirtualBox fires no event at all.
        lab.set_dhcp(HOST_ONLY, "--group", "ours", "--incl-mac-wild", "*", "--set-opt", "6", "192.168.56.1")
        becomes(HOST_ONLY, "192.168.56.1")
        lab.set_dhcp(HOST_ONLY, "--group", "ours", "--remove-config")
        becomes(HOST_ONLY)

        lab.add_nat_network("N")
        range_ = ("--lower-ip", "10.0.2.4", "--upper-ip", "10.0.2.254")
        lab.vbm("dhcpserver", "add", "--network", "N", "--server-ip", "10.0.2.3", "--netmask", "255.255.255.0", *range_)
        lab.set_dhcp("N", "--set-opt", "6", "192.0.2.1 192.0.2.2")
        becomes("N", "192.0.2.1", "192.0.2.2")
        lab.set_dhcp("N", "--group", "some", "--incl-mac-wild", "08:00:27:0*:*:*", "--set-opt", "6", "192.0.2.9")
        lab.set_dhcp("N", "--group", "ours", "--incl-mac-wild", "*", "--set-opt", "6", "198.18.53.1")
        becomes("N", "198.18.53.1")
        lab.set_dhcp(
            "N", "--group", "also", "--incl-mac-wild", "*", "--excl-mac", "080027000001", "--suppress-opt", "6"
        )
        becomes("N")
        lab.set_dhcp("N", "--group", "also", "--remove-config")
        becomes("N", "198.18.53.1")
        lab.set_dhcp("N", "--group", "ours", "--incl-mac-wild", "*", "--set-opt", "6", "198.18.53.2")
        becomes("N", "198.18.53.2")
    # The next one reads the same at its first look.
    with working(lab, reader) as worker:
        assert worker.name_servers("N") == ["198.18.53.2"]


def test_the_end_of_vboxsvc_hides_no_address_of_the_host(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.environ.items():
        monkeypatch.setenv(name, value)
    messages: list[dict[str, Any]] = []

    async def main() -> None:
        settled = asyncio.Event()

        def hear(message: dict[str, Any]) -> None:
            messages.append(message)
            if message.get("put") == "virtualbox":
                settled.set()

        task = asyncio.create_task(Supervisor("api", None, 30.0, hear).run())
        try:
            async with asyncio.timeout(PATIENCE):
                await settled.wait()
            await asyncio.to_thread(lab.kill, "VBoxSVC")
            async with asyncio.timeout(PATIENCE):
                while sum(message.get("put") in ("addresses", "neighbours") for message in messages) < 4:
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert any("lost" in message for message in messages)
    reports = [message["facts"] for message in messages if message.get("put") == "addresses"]
    assert len(reports) == 2  # each worker's first, and complete
    assert reports[0] == reports[1]
    assert "address:lo 127.0.0.1/8" in reports[0]
    assert len([message for message in messages if message.get("put") == "neighbours"]) == 2
