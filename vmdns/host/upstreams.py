"""The DNS servers that this host uses now. `watched_folders` and POLL_SECONDS tell when to read them again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host.journal import JournalEntry, open_host_journal
from vmdns.host.loopback_address import RESOLVER_ADDRESS

if sys.platform == "win32":
    from vmdns.host import upstreams_windows as system

    # Changes of the registry cannot be awaited in a selector loop.
    POLL_SECONDS = 5.0
elif sys.platform == "darwin":
    from vmdns.host import upstreams_macos as system

    POLL_SECONDS = 30.0
else:
    from vmdns.host import upstreams_linux as system

    POLL_SECONDS = 0.0

HOST_SCOPE = "host"  # of journal entries of `vmdns host`
_SERVER_KINDS = ("mac-servers", "windows-servers")


def read_upstreams() -> Upstreams:
    """Reads them. May block for seconds: call it in a thread. Raises OSError with a text for the user."""
    found = system.read()
    if sys.platform not in ("win32", "darwin"):
        return system.with_proxy(found)
    return _earlier_upstreams(found) if RESOLVER_ADDRESS in found.resolvers else found


def servers_before(entries: list[JournalEntry]) -> list[str]:
    """The configured name servers that `vmdns host --whole` replaced, without duplicates."""
    lists = [one.before for one in entries if one.kind in _SERVER_KINDS and isinstance(one.before, list)]
    return list(dict.fromkeys(str(address) for addresses in lists for address in addresses))


def _earlier_upstreams(found: Upstreams) -> Upstreams:
    """The upstreams of a host that sends all queries to vmdns: those configured before, else those from DHCP."""
    try:
        configured = servers_before(open_host_journal().entries(HOST_SCOPE))
    except (OSError, RuntimeError):
        configured = []
    servers = tuple(map(Upstream, configured)) or tuple(one for one in found.default if one.address != RESOLVER_ADDRESS)
    if not servers and sys.platform == "darwin":
        from vmdns.host.resolver_macos import dhcp_servers

        servers = tuple(map(Upstream, dhcp_servers()))
    return replace(found, default=servers, stub=(RESOLVER_ADDRESS,))


def watched_folders() -> list[Path]:
    """Folders (without subfolders) in which a change means "read again". Some may not exist yet."""
    if sys.platform == "win32":
        return []
    return system.watched_folders()
