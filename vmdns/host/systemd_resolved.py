"""systemd-resolved: the servers and domains of each link, and whether its proxy answers.

Links' settings are read from the state files of systemd-resolved and systemd-networkd. Their format is private to
systemd and may change: unreadable settings are left out, and queries still reach the right servers through the proxy.
Tested with systemd 252.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from vmdns.dns.builtin_zones import LOCALHOST
from vmdns.dns.message import SERVFAIL, SOA, A
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query
from vmdns.dns.upstreams import RESOLVED_PROXY, RESOLVED_STUB, Upstream

FOLDER = "run/systemd/resolve"
# What programs set by D-Bus (NetworkManager, resolvectl, VPN clients), and the configuration of systemd-networkd.
LINK_FOLDERS = (f"{FOLDER}/netif", "run/systemd/netif/links")
_KEYS = {"SERVERS", "DNS", "DOMAINS", "ROUTE_DOMAINS"}
_MOST_LINKS, _MOST_BYTES = 256, 65_536
# A zone of addresses for documentation (RFC 6303 section 4.2), which vmdns answers.
_TEST_NETWORK = to_wire("113.0.203.in-addr.arpa")
_SECONDS = 0.5
_SERVER = re.compile(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|(.+)")

Domains = dict[bytes, tuple[Upstream, ...]]


def parse_link(text: str, index: str) -> Domains:
    """The domains of a link (wire names, the root for `~.`), each with the servers of that link.

    index is the number of the interface, for link-local servers.
    """
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key in _KEYS:
            values[key] = value.split()
    found = (parse_server(word, index) for word in values.get("SERVERS", []) + values.get("DNS", []))
    servers = tuple(dict.fromkeys(one for one in found if one is not None))
    domains: Domains = {}
    for word in values.get("DOMAINS", []) + values.get("ROUTE_DOMAINS", []):
        with contextlib.suppress(ValueError):
            domains[to_wire(word.removeprefix("~"))] = servers
    return domains if servers else {}


def parse_server(text: str, index: str) -> Upstream | None:
    """A server as systemd writes it: ADDRESS[:PORT][%INTERFACE][#NAME], an IPv6 address with a port in brackets."""
    text, _, interface = text.partition("#")[0].partition("%")
    found = _SERVER.fullmatch(text)
    if found is None:
        return None
    try:
        address = ipaddress.ip_address(found[1] or found[3] or found[5])
    except ValueError:
        return None
    scope = f"%{interface or index}" if address.version == 6 and address.is_link_local else ""
    return Upstream(f"{address}{scope}", int(found[2] or found[4] or 53))


def read_domains(root: Path) -> Domains:
    """The domains of all links, with their servers; those of several links have the servers of each."""
    domains: dict[bytes, dict[Upstream, None]] = {}
    for folder in LINK_FOLDERS:
        with contextlib.suppress(OSError):
            files = sorted(one for one in (root / folder).iterdir() if one.name.isdigit())
            for file in files[:_MOST_LINKS]:
                _merge(domains, parse_link(_text(file), file.name))
    return {key: tuple(servers) for key, servers in domains.items()}


def _merge(domains: dict[bytes, dict[Upstream, None]], link: Mapping[bytes, Iterable[Upstream]]) -> None:
    for key, servers in link.items():
        domains.setdefault(key, {}).update(dict.fromkeys(servers))


def find_proxy() -> Upstream | None:
    """The address where systemd-resolved forwards queries: its proxy, or its stub before version 249. Takes up to 2 s.

    None if it does not answer, and if it would forward to vmdns, which would be a loop.
    """
    for address in (RESOLVED_PROXY, RESOLVED_STUB):
        if _send_query(address, LOCALHOST, A) is not None:  # which it answers itself
            return None if leads_to_vmdns(_send_query(address, _TEST_NETWORK, SOA)) else Upstream(address)
    return None


def leads_to_vmdns(reply: bytes | None) -> bool:
    """Whether a response about the zone 113.0.203.in-addr.arpa comes from vmdns, by its SOA, or may come from it.

    None is no response, so it is not from vmdns, which answers at once.
    """
    if reply is None:
        return False
    # A vmdns that has just started has no zones yet, and answers SERVFAIL.
    return reply[3] & 0x0F == SERVFAIL or b"\x05vmdns" in reply


def _send_query(address: str, name: bytes, kind: int) -> bytes | None:
    query = encode_query(0x5644, name, kind, edns=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(_SECONDS)
        try:
            one.connect((address, 53))
            one.send(query)
            reply = one.recv(4096)
        except OSError:
            return None
    return reply if reply[:2] == query[:2] and len(reply) > 12 else None


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8", "replace")
