"""The test zone of the list of correct answers (cases A, H, E and T), as a snapshot."""

from __future__ import annotations

from tests.facts import HOSTONLY, NETWORKS, NOW, lease, vm
from vmdns.dns.name import to_wire
from vmdns.dns.zonefile import parse_records
from vmdns.state.build import build
from vmdns.state.facts import HostName
from vmdns.state.snapshot import Policy, Snapshot

ZONES = ("local", "vm.internal")
RECORDS = """
web-01          A      192.168.56.101
web-01          AAAA   fd00:56::101
web-01          TXT    "first string" "second string"
_http._tcp.web-01 SRV  0 0 80 web-01
v6only          AAAA   fd00:56::6
multi           A      192.168.56.21
multi           A      192.168.56.22
multi           A      192.168.56.23
www             CNAME  web-01
www2            CNAME  www
dangling        CNAME  nope
away            CNAME  www.example.org.
circle          CNAME  circle2
circle2         CNAME  circle
self            CNAME  self
host            A      192.168.56.1
_ssh._tcp       SRV    0 0 2222 host
_http._tcp      SRV    0 0 8080 host
_http._tcp      SRV    0 0 8081 host
*.wild          A      192.168.56.77
b.a.wild        TXT    "below"
*.alias         CNAME  web-01
"""
RECORDS += "".join(f"big A 192.168.56.{100 + n}\n" for n in range(60))
RECORDS += "".join(f"huge A 192.168.57.{100 + n}\n" for n in range(100))

FACTS = (
    *NETWORKS,
    vm(1, "db", HOSTONLY),
    lease(1, "192.168.56.102", HOSTONLY),
    vm(2, "waiting", HOSTONLY),
    vm(3, "off", HOSTONLY, state="PoweredOff"),
    vm(4, "리눅스", HOSTONLY),
    lease(4, "192.168.56.104", HOSTONLY),
    HostName("nas", "192.168.1.9"),
    HostName("nas.example.org", "192.168.1.9", canonical=False),
    HostName("myhost", "127.0.1.1"),
)


def snapshot(*, looked: bool = True, forwarded: tuple[str, ...] = ()) -> Snapshot:
    policy = Policy(
        zones=ZONES,
        records=parse_records(RECORDS, ZONES, 5),
        forwarded=frozenset(to_wire(domain) for domain in forwarded),
        looked=looked,
    )
    return build(FACTS, policy, NOW, 7)


SNAPSHOT = snapshot()
