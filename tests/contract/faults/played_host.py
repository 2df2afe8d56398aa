"""A whole host with vmdns in namespaces of its own, whose name servers change: run by test_network.py.

    unshare --net --mount python played_host.py vpn|company FOLDER

FOLDER/etc becomes /etc. Prints what was found, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.contract.faults.stream import Stream, Upstream, ask
from tests.contract.test_run import Run

NETWORK, FIRST, SECOND = "192.0.2.1", "127.0.0.2", "127.0.0.3"
OURS = {"www.local": frozenset({frozenset({"192.168.56.200"})})}


class Host:
    """The host. Its configuration is FOLDER/given.toml."""

    def __init__(self, folder: Path, upstreams: dict[str, str], ttl: int, *commands: str) -> None:
        self.folder = folder
        self.config = folder / "given.toml"
        mount = "mount --make-rprivate /", f"mount --bind {folder}/etc /etc"
        for command in (*mount, "ip link set lo up", *commands):
            subprocess.run(["sh", "-c", command], check=True)
        for address, answer in upstreams.items():
            Upstream(address, 53, answer, ttl)

    def write_resolv_conf(self, text: str) -> None:
        """As network managers write it: beside it, then renamed."""
        new = self.folder / "etc" / "resolv.conf.new"
        new.write_text(text)
        new.replace(self.folder / "etc" / "resolv.conf")

    @contextlib.contextmanager
    def vmdns(self, *options: str) -> Iterator[Run]:
        run = Run(self.folder, "--config", str(self.config), *options)
        try:
            run.saw("ready:")
            yield run
        finally:
            run.stop()


def play_company(folder: Path) -> dict[str, Any]:
    """A company's network: its server knows a domain below `local` and private addresses; then a local resolver."""
    host = Host(folder, {NETWORK: "10.1.2.3", FIRST: "10.9.9.9"}, 1, f"ip address add {NETWORK}/32 dev lo")
    host.write_resolv_conf(f"search corp.local\nnameserver {NETWORK}\n")
    records = 'records = "web A 192.168.56.200\\nintranet.corp A 192.168.56.201"\n'
    host.config.write_text(records)
    with host.vmdns("--listen", "127.0.0.1:53") as run:
        run.until("dc1.corp.local", "10.1.2.3")
        names = ("dc2.corp.local", "intranet.corp.local", "web.local", "ghost.local", "nas.lan")
        found: dict[str, Any] = {"company": [run.addresses(name) for name in names]}
        found["ghost"] = run.ask("ghost.local").rcode()
        found["line"] = run.saw("withheld")
        found["doctor"] = json.loads(run.command("doctor", "--json").stdout)["findings"]
        host.config.write_text(f'private_domains = ["lan"]\n{records}')
        run.until("nas2.lan", "10.1.2.3")
        found["others"] = run.addresses("nas.example.org")
        host.write_resolv_conf(f"nameserver {FIRST}\n")
        run.until("shop.test", "10.9.9.9")
        found["own"] = run.addresses("any.example.org")
        found["left"] = [run.addresses(name) for name in ("dc3.corp.local", "web.local")]
    return found


def seconds_until(name: str, address: str) -> float:
    """Seconds until names that were never queried before have this address; 20 at most."""
    began = time.monotonic()
    for turn in range(2000):
        if ask(f"{name}{turn}.example", "127.0.0.1", 53, seconds=6.0) == frozenset({address}):
            return time.monotonic() - began
        time.sleep(0.01)
        if time.monotonic() - began > 20:
            break
    raise AssertionError(f"{name}: never {address}")


def play_vpn(folder: Path) -> dict[str, Any]:
    """A VPN changes the name servers of a host without IPv6, which names vmdns itself as well."""
    no_ipv6 = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"
    host = Host(folder, {FIRST: "93.184.216.2", SECOND: "93.184.216.3"}, 60, no_ipv6)
    host.write_resolv_conf(f"nameserver 127.0.0.1\nnameserver {FIRST}\n")
    host.config.write_text('records = "www A 192.168.56.200"\n')
    with host.vmdns() as run:
        found: dict[str, Any] = {"first": seconds_until("a", "93.184.216.2")}
        ask("kept.example", "127.0.0.1", 53)
        stream = Stream("127.0.0.1", 53, OURS)
        stream.start()
        host.write_resolv_conf(f"nameserver 127.0.0.1\nnameserver {SECOND}\n")
        found["changed"] = seconds_until("b", "93.184.216.3")
        found["kept"] = sorted(ask("kept.example", "127.0.0.1", 53))  # another network may know other names
        os.unlink(folder / "etc" / "resolv.conf")
        run.saw("cannot be found out")
        found["gone"] = sorted(ask("kept.example", "127.0.0.1", 53))
        host.write_resolv_conf(f"nameserver {FIRST}\n")
        found["back"] = seconds_until("c", "93.184.216.2")
        stream.stop()
        found.update(wrong=stream.wrong, unanswered=stream.unanswered, answered=stream.answered)
        found["status"] = run.stop()
        found["log"] = run.lines
    return found


if __name__ == "__main__":
    print(json.dumps({"vpn": play_vpn, "company": play_company}[sys.argv[1]](Path(sys.argv[2]))))
