"""The configurations under which each server knows the names of `world`, or forwards to one upstream. One core each."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.world import HOST, REVERSE_ZONE, TTL, address, name, reverse

CACHED_NAMES = 20_000  # that each cache has room for at least
SERVER = Path(__file__).resolve().parent / "vmdns_server.py"
BEGINNING = time.time()  # when leases were issued


def dnsmasq(place: Path, port: int, count: int, upstream: int) -> list[str]:
    """Names in a hosts file; the arguments of dnsmasq."""
    (place / "names").write_text("".join(f"{address(n)} {name(n)}\n" for n in range(count)))
    ways = (
        f"server=127.0.0.1#{upstream}\n" if upstream
        else f"addn-hosts={place}/names\nlocal=/local/\nlocal=/{REVERSE_ZONE}/\n"
    )  # fmt: skip
    user = "user=root\n" if os.geteuid() == 0 else ""
    (place / "conf").write_text(
        f"port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\npid-file=\nlocal-ttl={TTL}\n"
        f"cache-size={CACHED_NAMES}\ndns-forward-max=1000\n{user}{ways}"
    )
    return ["-k", "-C", str(place / "conf")]


def unbound(place: Path, port: int, count: int, upstream: int) -> list[str]:
    """Names as local data; the arguments of unbound."""
    if upstream:
        more = f'forward-zone:\n  name: "."\n  forward-addr: 127.0.0.1@{upstream}\n'
    else:
        lines = [
            '  local-zone: "local." static\n', f'  local-zone: "{REVERSE_ZONE}." static\n',
            f'  local-data: "local. {TTL} SOA vmdns.local. hostmaster.local. 1 3600 1200 604800 {TTL}"\n',
            f'  local-data: "{REVERSE_ZONE}. {TTL} SOA vmdns.local. hostmaster.local. 1 3600 1200 604800 {TTL}"\n',
        ]  # fmt: skip
        for n in range(count):
            lines.append(f'  local-data: "{name(n)}. {TTL} A {address(n)}"\n')
            lines.append(f'  local-data: "{reverse(n)}. {TTL} PTR {name(n)}."\n')
        more = "".join(lines)
    (place / "conf").write_text(
        f"server:\n  interface: 127.0.0.1@{port}\n  access-control: 127.0.0.0/8 allow\n  num-threads: 1\n"
        f'  do-daemonize: no\n  use-syslog: no\n  logfile: ""\n  verbosity: 0\n  chroot: ""\n  username: ""\n'
        f'  directory: "{place}"\n  pidfile: "{place}/pid"\n  module-config: "iterator"\n'
        f"  do-not-query-localhost: no\n  do-ip6: no\n  msg-cache-size: 16m\n  rrset-cache-size: 32m\n"
        f"  outgoing-range: 4096\n  num-queries-per-thread: 2048\n{more}remote-control:\n  control-enable: no\n"
    )
    return ["-d", "-c", str(place / "conf")]


def knot(place: Path, port: int, count: int, upstream: int) -> list[str]:
    """Names as two zones; the arguments of knotd."""
    soa = f"@ {TTL} SOA vmdns.local. hostmaster.local. 1 3600 1200 604800 {TTL}\n@ {TTL} NS vmdns.local.\n"
    (place / "local").write_text(
        f"$ORIGIN local.\n{soa}vmdns {TTL} A 127.0.0.1\n"
        + "".join(f"{name(n)}. {TTL} A {address(n)}\n" for n in range(count))
    )
    (place / "reverse").write_text(
        f"$ORIGIN {REVERSE_ZONE}.\n{soa}" + "".join(f"{reverse(n)}. {TTL} PTR {name(n)}.\n" for n in range(count))
    )
    (place / "conf").write_text(
        f"server:\n  rundir: {place}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  background-workers: 1\ndatabase:\n  storage: {place}\nlog:\n  - target: stderr\n    any: error\n"
        f"zone:\n  - domain: local\n    file: {place}/local\n  - domain: {REVERSE_ZONE}\n    file: {place}/reverse\n"
    )
    return ["-c", str(place / "conf")]


COMMANDS: dict[str, Callable[[Path, int, int, int], list[str]]] = {"dnsmasq": dnsmasq, "unbound": unbound, "Knot": knot}


def vmdns(
    place: Path,
    tree: Path,
    port: int,
    count: int,
    upstream: int,
    *,
    views: int = 1,
    beat: bool = False,
    door: bool = False,
) -> tuple[list[str], list[str], dict[str, str]]:
    """As many VMs as names, told by a lease file; as many views as addresses. Targets, command and environment.

    door: whether guests of vboxnet0 are answered too, at the host's address there, which is the last target.
    """
    (place / "machines").write_text(str(count))
    os.mkfifo(place / "orders")
    write_leases(place, lease_file(count))
    targets = [f"127.0.0.{1 + view}:{port}" for view in range(views)] + [f"{HOST}:{port}"] * door
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("VBOX_")},
        "HOME": str(place), "XDG_CONFIG_HOME": str(place), "XDG_STATE_HOME": str(place), "XDG_RUNTIME_DIR": "",
        **({"VMDNS_BENCH_BEAT": "1"} if beat else {}),
    }  # fmt: skip
    options = [word for target in targets for word in ("--listen", target)]
    # Nobody is there where nothing is to be forwarded.
    options += ["--upstream", f"127.0.0.1:{upstream or 9}"]
    return targets, [sys.executable, str(SERVER), str(tree), str(place), *options], env


def lease_file(count: int, more: int = 0, *, issued: float = BEGINNING) -> bytes:
    """A lease file of vboxnet0, as VBoxNetDHCP writes it; VM 0 has none.

    more: so many VMs beside them that nobody knows. issued in Unix seconds.
    """
    entries = []
    for n in [*range(1, count), *range(100_000, 100_000 + more)]:
        octets = ":".join(f"0800{n:08x}"[at : at + 2] for at in range(0, 12, 2))
        where = address(n) if n < count else f"10.77.{60 + (n - 100_000) // 250}.{1 + (n - 100_000) % 250}"
        entries.append(
            f'  <Lease mac="{octets}" id="01{octets.replace(":", "")}" network="0.0.0.0" state="acked">\n'
            f'    <Address value="{where}"/>\n    <Time issued="{int(issued)}" expiration="86400"/>\n  </Lease>\n'
        )
    return f'<?xml version="1.0"?>\n<Leases version="1.0">\n{"".join(entries)}</Leases>\n'.encode()


def write_leases(home: Path, content: bytes) -> None:
    """Replaces the lease file, as VBoxNetDHCP does."""
    file = home / "HostInterfaceNetworking-vboxnet0-Dhcpd.leases"
    fresh = file.with_name(file.name + "-tmp")
    fresh.write_bytes(content)
    fresh.replace(file)
