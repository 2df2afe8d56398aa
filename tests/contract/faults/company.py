"""Plays a host on a company's network: run by test_network.py in namespaces of its own.

    unshare --net --mount python company.py FOLDER

FOLDER/etc becomes /etc. Its resolv.conf names the network's server, with a domain below `local` and private addresses;
then a resolver of the computer itself. Prints what was found, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.contract.test_run import Run

NETWORK, OWN = "192.0.2.1", "127.0.0.2"
# An upstream at that address: every name has this address.
_UPSTREAM = """
import socket, sys
import dns.message, dns.rrset
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((sys.argv[1], 53))
while True:
    packet, peer = one.recvfrom(4096)
    query = dns.message.from_wire(packet)
    reply = dns.message.make_response(query, recursion_available=True)
    if query.question[0].rdtype == 1:
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 1, "IN", "A", sys.argv[2]))
    one.sendto(reply.to_wire(), peer)
"""


def resolv_conf(folder: Path, text: str) -> None:
    fresh = folder / "etc" / "resolv.conf.fresh"
    fresh.write_text(text)
    fresh.replace(folder / "etc" / "resolv.conf")


def play(folder: Path) -> dict[str, Any]:
    for words in (
        ("mount", "--make-rprivate", "/"),
        ("mount", "--bind", str(folder / "etc"), "/etc"),
        ("ip", "link", "set", "lo", "up"),
        ("ip", "address", "add", f"{NETWORK}/32", "dev", "lo"),
    ):
        subprocess.run(words, check=True)
    resolv_conf(folder, f"search corp.local\nnameserver {NETWORK}\n")
    config = folder / "given.toml"
    records = 'records = "web A 192.168.56.200\\nintranet.corp A 192.168.56.201"\n'
    config.write_text(records)
    upstreams = [
        subprocess.Popen([sys.executable, "-c", _UPSTREAM, where, address])
        for where, address in ((NETWORK, "10.1.2.3"), (OWN, "10.9.9.9"))
    ]
    run = Run(folder, "--config", str(config), "--listen", "127.0.0.1:53")
    try:
        run.saw("ready:")
        run.until("dc1.corp.local", "10.1.2.3")
        names = ("dc2.corp.local", "intranet.corp.local", "web.local", "ghost.local", "nas.lan")
        found: dict[str, Any] = {"company": [run.addresses(name) for name in names]}
        found["ghost"] = run.ask("ghost.local").rcode()
        found["line"] = run.saw("withheld")
        found["doctor"] = json.loads(run.command("doctor", "--json").stdout)["findings"]
        config.write_text(f'private_domains = ["lan"]\n{records}')
        run.until("nas2.lan", "10.1.2.3")
        found["others"] = run.addresses("nas.example.org")
        resolv_conf(folder, f"nameserver {OWN}\n")
        run.until("shop.test", "10.9.9.9")
        found["own"] = run.addresses("any.example.org")
        found["left"] = [run.addresses(name) for name in ("dc3.corp.local", "web.local")]
    finally:
        run.stop()
        for one in upstreams:
            one.kill()
            one.wait()
    return found


if __name__ == "__main__":
    print(json.dumps(play(Path(sys.argv[1]))))
