"""Strangers with real packets (T8): a whole `vmdns run` in one network namespace, asked from another one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_run import Run
from tests.unit.sources.twohosts import TwoHosts, missing, two_hosts

pytestmark = pytest.mark.skipif(missing() != "", reason=missing() or "-")

DOOR, STRANGER, PORT = "192.0.2.1", "192.0.2.77", 53

# What the stranger does: each question 20 times by UDP, as many as that by TCP; the rcodes, and bytes by UDP.
ASKING = """
import json, socket, sys
import dns.message, dns.query, dns.rcode
door, names = sys.argv[1], sys.argv[2:]
sent = received = 0
found = {}
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
plain.connect((door, 53))
plain.settimeout(5)
for name in names:
    for kind in ("A", "ANY", "TXT", "SOA"):
        for how in ({"use_edns": False}, {"use_edns": 0, "payload": 4096}):
            query = dns.message.make_query(name, kind, **how)
            wire = query.to_wire()
            plain.send(wire)
            reply = plain.recv(65535)
            sent += len(wire)
            received += len(reply)
            read = dns.message.from_wire(reply)
            rcodes = found.setdefault(name, {})
            key = dns.rcode.to_text(read.rcode()) + (" TC" if read.flags & 0x0200 else "") + (
                " data" if read.answer else "")
            rcodes[key] = rcodes.get(key, 0) + 1
            assert len(reply) <= 3 * len(wire), (name, kind, len(wire), len(reply))
by_tcp = {name: dns.rcode.to_text(dns.query.tcp(dns.message.make_query(name, "A"), door, 5).rcode()) for name in names}
print(json.dumps({"udp": found, "tcp": by_tcp, "sent": sent, "received": received}))
"""


@contextmanager
def serving(hosts: TwoHosts, folder: Path, config: str) -> Iterator[None]:
    """vmdns in the host's namespace, with a file for its configuration, and no VirtualBox."""
    hosts.ip(hosts.host, "addr", "add", f"{DOOR}/24", "dev", "lan0")
    hosts.ip(hosts.guest, "addr", "add", f"{STRANGER}/24", "dev", "eth0")
    file = folder / "vmdns.toml"
    file.write_text(config)

    def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["ip", "netns", "exec", hosts.host, *command], **how)

    run = Run(folder, "--config", str(file), start=start)
    try:
        run.saw("ready:")
        yield
    finally:
        run.stop()


def asked(hosts: TwoHosts, *names: str) -> dict[str, dict[str, dict[str, int]]]:
    done = hosts.run(hosts.guest, sys.executable, "-c", ASKING, DOOR, *names)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    print(f"amplification: {found['received'] / found['sent']:.2f}")
    assert found["received"] <= 3 * found["sent"]
    return found  # type: ignore[no-any-return]


BASE = f"""
listen = ["{DOOR}:53"]
upstreams = ["127.0.0.1:9"]
mdns = false
mdns_relay = false
records = '''
web A 192.0.2.5
big TXT "{"x" * 250}" "{"y" * 250}"
'''
"""


@pytest.mark.parametrize(("lan", "bind"), [("guests", "auto"), ("off", "auto"), ("guests", "wildcard")])
def test_t8_a_stranger_is_refused_both_our_names_and_others(lan: str, bind: str, tmp_path: Path) -> None:
    with two_hosts() as hosts, serving(hosts, tmp_path, f'lan = "{lan}"\nbind = "{bind}"\n{BASE}'):
        found = asked(hosts, "web.local", "big.local", "www.example.com")
        for name, rcodes in found["udp"].items():
            assert {key.split()[0] for key in rcodes} == {"REFUSED"}, (name, rcodes)
            assert not [key for key in rcodes if "data" in key]
        assert set(found["tcp"].values()) == {"REFUSED"}  # type: ignore[arg-type]


@pytest.mark.parametrize("bind", ["auto", "wildcard"])
def test_t8_who_may_ask_for_names_gets_no_weapon(bind: str, tmp_path: Path) -> None:
    with two_hosts() as hosts, serving(hosts, tmp_path, f'lan = "names"\nbind = "{bind}"\n{BASE}'):
        found = asked(hosts, "web.local", "big.local", "www.example.com")
        assert "NOERROR data" in found["udp"]["web.local"]
        assert "NOERROR TC" in found["udp"]["big.local"]
        assert {key.split()[0] for key in found["udp"]["www.example.com"]} == {"REFUSED"}
        assert found["tcp"] == {"web.local": "NOERROR", "big.local": "NOERROR", "www.example.com": "REFUSED"}


# A flood from one address of the network while another one asks: by UDP without and with a cookie, and by TCP.
FLOODED = """
import json, socket, subprocess, sys, time
import dns.edns, dns.flags, dns.message, dns.query
door, flooder, victim, code = sys.argv[1:]
wire = dns.message.make_query("web.local", "A", use_edns=0).to_wire()
flood = subprocess.Popen([sys.executable, "-c", code, door, flooder, wire.hex()], stdout=subprocess.PIPE)
flood.stdout.read(1)  # it has sent ten thousand
found = {"plain": 0, "empty": 0, "cookie": 0, "tcp": 0}
try:
    first = dns.message.make_query("web.local", "A", use_edns=0, options=[dns.edns.GenericOption(10, b"cccccccc")])
    given = [one for one in dns.query.tcp(first, door, 5, source=victim).options if one.otype == 10]
    cookie = dns.edns.GenericOption(10, given[0].to_wire())
    for options, tries in (([], 36), ([cookie], 12)):
        for _ in range(tries):
            query = dns.message.make_query("web.local", "A", use_edns=0, options=options)
            try:
                reply = dns.query.udp(query, door, 0.5, source=victim)
            except dns.exception.Timeout:
                continue
            if reply.flags & dns.flags.TC:
                found["empty"] += 1
            else:
                found["cookie" if options else "plain"] += bool(reply.answer)
    for _ in range(12):
        query = dns.message.make_query("web.local", "A")
        found["tcp"] += bool(dns.query.tcp(query, door, 5, source=victim).answer)
finally:
    flood.kill()
    flood.wait()
print(json.dumps(found))
"""
FLOOD = """
import os, socket, sys
door, source, wire = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3])
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((source, 0))
one.connect((door, 53))
for number in range(3_000_000):
    try:
        one.send(wire)
    except OSError:
        pass
    if number == 10_000:
        os.write(1, b".")
"""


@pytest.mark.slow
def test_a_flood_from_a_network_leaves_its_others_tcp_and_cookies(tmp_path: Path) -> None:
    with two_hosts() as hosts, serving(hosts, tmp_path, f'lan = "names"\n{BASE}'):
        hosts.ip(hosts.guest, "addr", "add", "192.0.2.78/24", "dev", "eth0")
        done = hosts.run(hosts.guest, sys.executable, "-c", FLOODED, DOOR, "192.0.2.78", STRANGER, FLOOD)
        assert done.returncode == 0, done.stderr.decode()
        found = json.loads(done.stdout)
        print(found)
        assert (found["cookie"], found["tcp"]) == (12, 12)
        assert found["plain"] + found["empty"] >= 3  # of 36, of which a third is to be expected


# Queries each address from the guest's side of the link: the rcode by UDP and by TCP, None without a response.
EACH = """
import json, sys
import dns.message, dns.query
found = {}
for address in sys.argv[1:]:
    query = dns.message.make_query("web.local", "A")
    for way in (dns.query.udp, dns.query.tcp):
        try:
            found.setdefault(address, []).append(way(query, address, 5).rcode())
        except (OSError, dns.query.UnexpectedSource, dns.exception.Timeout, EOFError):
            found.setdefault(address, []).append(None)
print(json.dumps(found))
"""


def test_sockets_that_are_bound_to_all_addresses_answer_at_the_wanted_ones(tmp_path: Path) -> None:
    """By UDP and TCP, IPv4 and IPv6, from the address that was queried, while addresses come and go."""
    first, second, other, late = DOOR, "192.0.2.2", "192.0.2.3", "192.0.2.4"
    six, other_six, link_local = "2001:db8::1", "2001:db8::3", "fe80::53"
    with two_hosts() as hosts:
        for address in (f"{second}/32", f"{other}/32", f"{six}/64", f"{other_six}/64", f"{link_local}/64"):
            hosts.ip(hosts.host, "addr", "add", address, "dev", "lan0", *(["nodad"] if ":" in address else []))
        hosts.ip(hosts.guest, "addr", "add", "2001:db8::77/64", "dev", "eth0", "nodad")
        listens = [first, second, late, f"[{six}]", f"[{link_local}%lan0]"]
        config = BASE.replace(f'listen = ["{DOOR}:53"]', f"listen = {json.dumps(listens)}")

        def ask(*addresses: str) -> dict[str, list[int | None]]:
            done = hosts.run(hosts.guest, sys.executable, "-c", EACH, *addresses)
            assert done.returncode == 0, done.stderr.decode()
            return json.loads(done.stdout)  # type: ignore[no-any-return]

        with serving(hosts, tmp_path, f'lan = "names"\nbind = "wildcard"\n{config}'):
            answered = [first, second, six, f"{link_local}%eth0"]
            for _ in range(30):  # the guest's link-local address is tentative at first (RFC 4862 section 5.4)
                found = ask(*answered)
                if found == {address: [0, 0] for address in answered}:
                    break
            assert ask(*answered, other, other_six) == {
                **{address: [0, 0] for address in answered},
                other: [None, None],
                other_six: [None, None],
            }
            hosts.ip(hosts.host, "addr", "add", f"{late}/32", "dev", "lan0")
            hosts.ip(hosts.host, "addr", "del", f"{second}/32", "dev", "lan0")
            for _ in range(30):  # vmdns tries again every few seconds
                found = ask(first, late)
                if found[late] == [0, 0]:
                    break
            assert found == {first: [0, 0], late: [0, 0]}
