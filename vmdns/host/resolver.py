"""The resolver of this host: the DNS servers that it uses now, and plans that make it send queries to vmdns.

`watched_folders`, `watch_servers` and POLL_SECONDS tell when to read the servers again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host.folders import state_folder
from vmdns.host.plan import Journal, JournalEntry, Plan
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress

if sys.platform == "win32":
    from vmdns.host import resolver_windows as system

    upstreams = system
    POLL_SECONDS = 30.0  # for servers of router advertisements, which are not in the registry
elif sys.platform == "darwin":
    from vmdns.host import resolver_macos as system

    upstreams = system
    POLL_SECONDS = 30.0
else:
    from vmdns.host import resolver_linux as system
    from vmdns.host import upstreams_linux as upstreams

    POLL_SECONDS = 0.0

SETTINGS = system.SETTINGS
HOST_SCOPE = "host"  # of journal entries of `vmdns host`
SERVER_KINDS = ("resolv.conf", "mac-servers", "windows-servers")  # settings that name the server of all queries


def open_journal() -> Journal:
    """The journal of this user. Raises RuntimeError where no home folder is known."""
    return Journal(state_folder() / "journal.json")


def read_upstreams() -> Upstreams:
    """The servers that this host uses: where it sends all queries to vmdns, those before. May block for seconds, and
    raises OSError."""
    found = upstreams.read_upstreams()
    if sys.platform not in ("win32", "darwin") or RESOLVER_ADDRESS not in found.resolvers:
        return found
    try:
        configured = find_earlier_servers(open_journal().entries(HOST_SCOPE))
    except (OSError, RuntimeError):
        configured = []
    others = [one for one in found.default if one.address != RESOLVER_ADDRESS]
    servers = [Upstream(one) for one in configured] or others
    if not servers and sys.platform == "darwin":
        servers = [Upstream(one) for one in system.read_dhcp_servers()]
    return replace(found, default=tuple(servers), stub=(RESOLVER_ADDRESS,))


def find_earlier_servers(entries: Iterable[JournalEntry]) -> list[str]:
    """The configured name servers that `vmdns host --whole` replaced, without duplicates."""
    lists = [one.before for one in entries if one.kind in SERVER_KINDS and isinstance(one.before, list)]
    return list(dict.fromkeys(str(address) for addresses in lists for address in addresses))


def watched_folders() -> list[Path]:
    """Folders (without subfolders) in which a change means "read again". Some may not exist yet."""
    return upstreams.watched_folders()


def watch_servers(changed: Callable[[], object]) -> Callable[[], None]:
    """Has Windows call `changed`, in another thread, when its adapters, their settings or its rules change, as when it
    joins another Wi-Fi network. Returns a function that ends this."""
    if sys.platform == "win32":
        from vmdns.windows.change_notification import watch_changes

        return watch_changes(changed, system.WATCHED_KEYS)
    return lambda: None


def plan_resolver(whole: bool, at: ListenAddress, zones: Sequence[str]) -> Plan:
    """What to set, in order, so that queries for these zones go to vmdns at `at`, or all queries (whole); and notes.

    All queries go to RESOLVER_ADDRESS: vmdns must answer there before a setting of SERVER_KINDS is changed, or no name
    would resolve. macOS and Windows keep `.local` for multicast DNS. Raises OSError where there is no way.
    """
    notes = []
    if whole:
        start = "have it started with your session first"
        notes.append(f"while vmdns does not run, this computer resolves no names at all; {start}")
    if sys.platform not in ("win32", "darwin"):
        found = system.read_resolver()
        if not whole:
            return system.plan_zones(found, at, zones), notes
        wanted, more = system.plan_all(found, at, zones)
        return wanted, notes + more
    if whole:
        notes.append(f"VirtualBox then gives guests on NAT {RESOLVER_ADDRESS} as their DNS server")
        return system.plan_all(), notes
    if "local" in zones:
        why = "as macOS wants it" if sys.platform == "darwin" else "which such a rule would take away"
        notes.append(f"names in local are left to multicast DNS, {why}")
    return system.plan_zones(at, [zone for zone in zones if zone != "local"]), notes


def remove_leftovers() -> list[str]:
    """Removes rules that a vmdns that was deleted left (Windows). Returns sentences on them. Raises OSError."""
    if sys.platform != "win32":
        return []
    return system.remove_stale_rules([one.name for one in open_journal().entries(HOST_SCOPE) if one.kind == "nrpt"])
