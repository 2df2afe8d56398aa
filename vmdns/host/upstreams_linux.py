"""Linux: the DNS servers that this host uses, from resolv.conf(5) and systemd-resolved.

Where resolv.conf names only the stub of systemd-resolved, the servers behind it are those of its own resolv.conf
(systemd-resolved.service(8)), and those of each link for the link's domains. These are in state files whose format is
private to systemd (tested with 252): unreadable settings are left out. Queries go to the proxy of systemd-resolved,
which resolves like the host: domains of links, DNS over TLS, DNSSEC. After `vmdns host --whole` systemd-resolved may
forward to vmdns, so the servers are queried directly, as they are where no proxy answers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vmdns.dns.message import SERVFAIL, SOA, A
from vmdns.dns.name import LOCALHOST, to_wire
from vmdns.dns.upstreams import RESOLVED_PROXY, RESOLVED_STUB, Upstream, Upstreams, wire_names
from vmdns.files import read_regular
from vmdns.host.system_settings import query_udp

STUBS = frozenset({RESOLVED_STUB, RESOLVED_PROXY})
_RESOLV_CONF = "etc/resolv.conf"
RESOLVED_CONF = "run/systemd/resolve/resolv.conf"
_NETWORK_MANAGER = "run/NetworkManager"  # watched once this host sends all queries to vmdns
# What programs set by D-Bus (NetworkManager, resolvectl, VPN clients), and the configuration of systemd-networkd.
_LINK_FOLDERS = ("run/systemd/resolve/netif", "run/systemd/netif/links")
_MAX_LINKS = 256
# A zone of addresses for documentation (RFC 6303 section 4.2), which vmdns answers.
_TEST_NETWORK = to_wire("113.0.203.in-addr.arpa")
_PROXY_SECONDS = 0.5
_SERVER = re.compile(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|(.+)")

# Lines of the resolv.conf of vmdns, which names the files that others continue to write, and the servers before.
_HEAD = "# by vmdns host --whole: all names are asked of vmdns; vmdns host --undo takes it back"
_FOLLOW, _SERVER_BEFORE = "#vmdns follow ", "#vmdns nameserver "
MAX_BYTES = 65_536

Domains = dict[bytes, tuple[Upstream, ...]]


def read_text(path: Path, default: str | None = "") -> str:
    """The lines of a file that are whole within the bound: half an address would be another one.

    Raises OSError only if there is no default.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError:
        if default is None:
            raise
        return default
    whole = data if len(data) <= MAX_BYTES else data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class EarlierServers:
    """The name servers before: files whose servers are used as long as they name any, then fixed addresses."""

    follow: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


def render_resolv_conf(before: str, earlier: EarlierServers, address: str) -> str:
    """The text of the file: vmdns at `address` as the only server, with the search list and options of `before`."""
    kept = [line for line in before.splitlines() if line.split()[:1] in (["search"], ["domain"], ["options"])]
    notes = [_FOLLOW + path for path in earlier.follow] + [_SERVER_BEFORE + server for server in earlier.servers]
    return "\n".join([_HEAD, *notes, f"nameserver {address}", *kept]) + "\n"


def parse_earlier_servers(text: str) -> EarlierServers | None:
    """The inverse of `render_resolv_conf`; None for a resolv.conf that vmdns did not write."""
    lines = text.splitlines()
    if lines[:1] != [_HEAD]:
        return None
    follow = (one.removeprefix(_FOLLOW).strip() for one in lines if one.startswith(_FOLLOW))
    servers = tuple(one.removeprefix(_SERVER_BEFORE).strip() for one in lines if one.startswith(_SERVER_BEFORE))
    return EarlierServers(tuple(one for one in follow if one.startswith("/")), servers)


def parse_resolv_conf(text: str) -> Upstreams:
    """The servers and search domains of a resolv.conf; the last search or domain line counts."""
    servers: list[Upstream] = []
    search: frozenset[bytes] = frozenset()
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                servers.append(Upstream(address))
            case ["search" | "domain", _, *_] as words:
                search = wire_names(words[1:])
    return Upstreams(tuple(dict.fromkeys(servers)), search=search)


def parse_link(text: str, index: str) -> Domains:
    """The domains of a link (wire names, the root for `~.`) with its servers; index is the interface's number."""
    values = {key: value.split() for key, _, value in (line.partition("=") for line in text.splitlines())}
    found = (_parse_server(word, index) for word in values.get("SERVERS", []) + values.get("DNS", []))
    servers = tuple(dict.fromkeys(one for one in found if one is not None))
    domains: Domains = {}
    for word in values.get("DOMAINS", []) + values.get("ROUTE_DOMAINS", []):
        with contextlib.suppress(ValueError):
            domains[to_wire(word.removeprefix("~"))] = servers
    return domains if servers else {}


def _parse_server(text: str, index: str) -> Upstream | None:
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


def _read_domains(root: Path) -> Domains:
    """The domains of all links, with their servers; those of several links have the servers of each."""
    domains: Domains = {}
    for folder in _LINK_FOLDERS:
        with contextlib.suppress(OSError):
            for file in sorted(one for one in (root / folder).iterdir() if one.name.isdigit())[:_MAX_LINKS]:
                for key, servers in parse_link(read_text(file), file.name).items():
                    domains[key] = tuple(dict.fromkeys((*domains.get(key, ()), *servers)))
    return domains


def behind_stub(found: Upstreams, text: str, domains: Domains) -> Upstreams:
    """The same, with systemd-resolved's stub replaced by the servers in its own resolv.conf (text) and its links."""
    if not found.default or any(one.address not in STUBS for one in found.default):
        return found
    real = _with_links(parse_resolv_conf(text), domains)
    if not real.default:
        return replace(found, domains=real.domains)
    return replace(real, search=found.search | real.search, stub=found.resolvers)


def _with_links(found: Upstreams, domains: Domains) -> Upstreams:
    """The same with the domains of systemd-resolved's links; a link that takes everything (`~.`) comes first."""
    first = domains.get(b"\0", ())
    servers = tuple(one for one in dict.fromkeys((*first, *found.default)) if one.address not in STUBS)
    return replace(found, default=servers, domains={key: value for key, value in domains.items() if key != b"\0"})


def _find_earlier(found: Upstreams, earlier: EarlierServers, root: Path) -> Upstreams:
    """The upstreams from before this host sent all queries to vmdns; `found` has vmdns only."""
    own = {one.address for one in found.default} | STUBS

    def foreign(servers: tuple[Upstream, ...]) -> tuple[Upstream, ...]:
        return tuple(one for one in servers if one.address not in own)

    for path in earlier.follow:
        there = parse_resolv_conf(read_text(root / path.lstrip("/")))
        if servers := foreign(there.default):
            domains = _read_domains(root) if path.lstrip("/") == RESOLVED_CONF else {}
            domains = {key: foreign(value) for key, value in domains.items() if foreign(value)}
            search = found.search | there.search
            return _with_links(Upstreams(servers, search=search, stub=found.resolvers), domains)
    return Upstreams(tuple(map(Upstream, earlier.servers)), search=found.search, stub=found.resolvers)


def read_files(root: Path = Path("/")) -> Upstreams:
    """Reads the files below `root`. Raises OSError if resolv.conf cannot be read."""
    try:
        text = read_text(root / _RESOLV_CONF, None)
    except OSError as error:
        raise OSError(f"/{_RESOLV_CONF} cannot be read ({error.strerror}): no DNS servers of this host") from error
    found = parse_resolv_conf(text)
    earlier = parse_earlier_servers(text)
    if earlier is not None:
        return _find_earlier(found, earlier, root)
    domains = _read_domains(root)
    if (root / _RESOLV_CONF).resolve() == (root / RESOLVED_CONF).resolve():
        return _with_links(found, domains)
    return behind_stub(found, read_text(root / RESOLVED_CONF), domains)


def read_upstreams() -> Upstreams:
    """The servers in the files, and the proxy of systemd-resolved where this host uses it and it answers. Takes 2 s."""
    found = read_files()
    return replace(found, proxy=_find_proxy()) if found.stub and STUBS.issuperset(found.stub) else found


def _find_proxy() -> Upstream | None:
    """The proxy of systemd-resolved, or its stub before version 249; None if it does not answer or leads to vmdns."""
    for address in (RESOLVED_PROXY, RESOLVED_STUB):
        if query_udp(address, LOCALHOST, A, _PROXY_SECONDS) is not None:  # which it answers itself
            reply = query_udp(address, _TEST_NETWORK, SOA, _PROXY_SECONDS)
            return None if leads_to_vmdns(reply) else Upstream(address)
    return None


def leads_to_vmdns(reply: bytes | None) -> bool:
    """Whether a response about the zone 113.0.203.in-addr.arpa comes from vmdns, by its SOA, or may come from it."""
    if reply is None:
        return False  # vmdns answers at once
    # A vmdns that has just started has no zones yet, and answers SERVFAIL.
    return reply[3] & 0x0F == SERVFAIL or b"\x05vmdns" in reply


def watched_folders(root: Path = Path("/")) -> list[Path]:
    """The folders in which a change may mean other servers, also that of the file which /etc/resolv.conf links to."""
    file = root / _RESOLV_CONF
    earlier = parse_earlier_servers(read_text(file)) or EarlierServers()
    # Not Path.resolve, which raises for circular links (before Python 3.13).
    folders = [file.parent, Path(os.path.realpath(file)).parent, (root / RESOLVED_CONF).parent, root / _NETWORK_MANAGER]
    folders += [root / folder for folder in _LINK_FOLDERS]
    folders += [(root / path.lstrip("/")).parent for path in earlier.follow]
    return list(dict.fromkeys(folders))
