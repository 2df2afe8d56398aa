"""Linux: which DNS servers this host uses, by resolv.conf(5).

Where that names only the stub of systemd-resolved, the servers behind it are taken from the file in which
systemd-resolved lists them (systemd-resolved.service(8), /run/systemd/resolve/resolv.conf): the stub may one day be
told to ask vmdns. Where it names vmdns for everything (resolvconf.py), they are those that were asked before.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vmdns.core.name import to_wire
from vmdns.core.upstream import Upstream, Upstreams
from vmdns.host.resolvconf import Earlier, earlier_of
from vmdns.regularfile import read_regular

_STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
_RESOLV_CONF = "etc/resolv.conf"
_RESOLVED = "run/systemd/resolve/resolv.conf"
_NETWORK_MANAGER = "run/NetworkManager"  # followed once this host asks us for everything
_MOST_BYTES = 65_536


def parse_resolv_conf(text: str) -> Upstreams:
    """The servers and search domains of a resolv.conf; of several search or domain lines the last one counts."""
    servers: list[Upstream] = []
    search: frozenset[bytes] = frozenset()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            servers.append(Upstream(words[1]))
        elif words[0] in ("search", "domain"):
            search = wire_names(words[1:])
    return Upstreams(tuple(dict.fromkeys(servers)), search=search)


def wire_names(texts: Iterable[str]) -> frozenset[bytes]:
    """Domains in wire form, without the root and without what is no domain name."""
    found = set()
    for text in texts:
        try:
            found.add(to_wire(text))
        except ValueError:
            continue
    return frozenset(found - {b"\0"})


def behind_stub(found: Upstreams, resolved: str | None) -> Upstreams:
    """The same, with the stub of systemd-resolved replaced by its own servers, if `resolved` (its file) names any."""
    if resolved is None or not found.default or any(one.address not in _STUBS for one in found.default):
        return found
    real = parse_resolv_conf(resolved)
    servers = tuple(one for one in real.default if one.address not in _STUBS)
    return Upstreams(servers, search=found.search | real.search, stub=found.resolvers) if servers else found


def before_us(found: Upstreams, earlier: Earlier, root: Path) -> Upstreams:
    """The servers that were asked before the host was told to ask vmdns, which is what `found` names."""
    ours = {one.address for one in found.default} | _STUBS
    for path in earlier.follow:
        try:
            there = parse_resolv_conf(_text(root / path.lstrip("/")))
        except OSError:
            continue
        servers = tuple(one for one in there.default if one.address not in ours)
        if servers:
            return Upstreams(servers, search=found.search | there.search, stub=found.resolvers)
    return Upstreams(tuple(map(Upstream, earlier.servers)), search=found.search, stub=found.resolvers)


def read(root: Path = Path("/")) -> Upstreams:
    """Reads the files below `root`. Raises OSError where there is no resolv.conf that can be read."""
    try:
        text = _text(root / _RESOLV_CONF)
    except OSError as error:
        raise OSError(f"/{_RESOLV_CONF} cannot be read ({error.strerror}): no DNS servers of this host") from error
    found = parse_resolv_conf(text)
    earlier = earlier_of(text)
    if earlier is not None:
        return before_us(found, earlier, root)
    try:
        resolved = _text(root / _RESOLVED)
    except OSError:
        resolved = None
    return behind_stub(found, resolved)


def _text(path: Path) -> str:
    return read_regular(path, _MOST_BYTES).decode("utf-8", "replace")


def watched(root: Path = Path("/")) -> list[Path]:
    """The folders in which a change may mean other servers, also that of the file which /etc/resolv.conf links to; some
    may not exist."""
    file = root / _RESOLV_CONF
    folders = [file.parent, file.resolve().parent, (root / _RESOLVED).parent, root / _NETWORK_MANAGER]
    try:
        earlier = earlier_of(_text(file))
    except OSError:
        earlier = None
    if earlier is not None:
        folders += [(root / path.lstrip("/")).parent for path in earlier.follow]
    return list(dict.fromkeys(folders))
