"""Linux: the DNS servers that this host uses, from resolv.conf(5).

Where that names only the stub of systemd-resolved, the servers behind it are those of its own resolv.conf
(systemd-resolved.service(8)) and those of each link for the link's domains (systemd_resolved.py). Queries go to the
proxy of systemd-resolved, which resolves like the host: domains of links, DNS over TLS, DNSSEC. Where resolv.conf sends
all queries to vmdns (resolv_conf.py), systemd-resolved may forward to vmdns, so the servers are queried directly, as
they are where no proxy answers.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from vmdns.dns.upstreams import RESOLVED_PROXY, RESOLVED_STUB, Upstream, Upstreams
from vmdns.host import systemd_resolved as resolved
from vmdns.host.resolv_conf import EarlierServers, parse_earlier_servers, parse_resolv_conf
from vmdns.regular_file import read_regular

_STUBS = frozenset({RESOLVED_STUB, RESOLVED_PROXY})
_RESOLV_CONF = "etc/resolv.conf"
_RESOLVED = f"{resolved.FOLDER}/resolv.conf"
_NETWORK_MANAGER = "run/NetworkManager"  # watched once this host sends all queries to vmdns
_MOST_BYTES = 65_536
_ROOT = b"\0"


def behind_stub(found: Upstreams, text: str | None, domains: resolved.Domains) -> Upstreams:
    """The same, with the stub of systemd-resolved replaced by the servers behind it, if any are known.

    text is that of its own resolv.conf, domains are those of its links.
    """
    if not found.default or any(one.address not in _STUBS for one in found.default):
        return found
    real = with_links(parse_resolv_conf(text or ""), domains)
    if not real.default:
        return replace(found, domains=real.domains)
    return replace(real, search=found.search | real.search, stub=found.resolvers)


def with_links(found: Upstreams, domains: resolved.Domains) -> Upstreams:
    """The same with the domains of systemd-resolved's links; a link that takes everything (`~.`) comes first."""
    first = domains.get(_ROOT, ())
    servers = tuple(one for one in dict.fromkeys((*first, *found.default)) if one.address not in _STUBS)
    return replace(found, default=servers, domains={key: value for key, value in domains.items() if key != _ROOT})


def find_earlier_upstreams(found: Upstreams, earlier: EarlierServers, root: Path) -> Upstreams:
    """The upstreams from before this host sent all queries to vmdns; `found` has vmdns only."""
    own = {one.address for one in found.default} | _STUBS
    for path in earlier.follow:
        try:
            there = parse_resolv_conf(_text(root / path.lstrip("/")))
        except OSError:
            continue
        servers = tuple(one for one in there.default if one.address not in own)
        if servers:
            there = replace(there, default=servers, search=found.search | there.search, stub=found.resolvers)
            domains = resolved.read_domains(root) if path.lstrip("/") == _RESOLVED else {}
            domains = {key: tuple(one for one in value if one.address not in own) for key, value in domains.items()}
            return with_links(there, {key: value for key, value in domains.items() if value})
    return Upstreams(tuple(map(Upstream, earlier.servers)), search=found.search, stub=found.resolvers)


def with_proxy(found: Upstreams) -> Upstreams:
    """The same with the proxy of systemd-resolved, where this host uses it and it answers. Takes up to a second."""
    uses_stub = found.stub and _STUBS.issuperset(found.stub)
    return replace(found, proxy=resolved.find_proxy()) if uses_stub else found


def read(root: Path = Path("/")) -> Upstreams:
    """Reads the files below `root`. Raises OSError if resolv.conf cannot be read."""
    try:
        text = _text(root / _RESOLV_CONF)
    except OSError as error:
        raise OSError(f"/{_RESOLV_CONF} cannot be read ({error.strerror}): no DNS servers of this host") from error
    found = parse_resolv_conf(text)
    earlier = parse_earlier_servers(text)
    if earlier is not None:
        return find_earlier_upstreams(found, earlier, root)
    try:
        behind = _text(root / _RESOLVED)
    except OSError:
        behind = None
    domains = resolved.read_domains(root)
    if (root / _RESOLV_CONF).resolve() == (root / _RESOLVED).resolve():
        return with_links(found, domains)
    return behind_stub(found, behind, domains)


def _text(path: Path) -> str:
    """The lines of a file that are whole within the bound: half an address would be another one."""
    data = read_regular(path, _MOST_BYTES)
    whole = data if len(data) <= _MOST_BYTES else data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace")


def watched_folders(root: Path = Path("/")) -> list[Path]:
    """The folders in which a change may mean other servers, also that of the file which /etc/resolv.conf links to; some
    may not exist."""
    file = root / _RESOLV_CONF
    # Not Path.resolve, which raises for circular links (before Python 3.13).
    folders = [file.parent, Path(os.path.realpath(file)).parent, (root / _RESOLVED).parent, root / _NETWORK_MANAGER]
    folders += [root / folder for folder in resolved.LINK_FOLDERS]
    try:
        earlier = parse_earlier_servers(_text(file))
    except OSError:
        earlier = None
    if earlier is not None:
        folders += [(root / path.lstrip("/")).parent for path in earlier.follow]
    return list(dict.fromkeys(folders))
