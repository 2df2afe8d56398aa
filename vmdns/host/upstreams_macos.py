"""macOS: the DNS servers that this host uses, from `scutil --dns` (scutil(8), resolver(5)).

Written from the manual pages and tested with texts in their format; never run on a Mac.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host.resolv_conf import wire_names

_TIMEOUT = 10.0
_LINE = re.compile(r"\s+([^:\[]+?)\s*(?:\[\d+\])?\s*:\s*(.*\S)")
_FOLDERS = ("/etc/resolver", "/var/run")


def parse_scutil(text: str) -> Upstreams:
    """Reads the first part of `scutil --dns`; the second has the same for programs bound to an interface.

    The first resolver is the default one. Those that follow serve the domain they name, or are further default
    ones. Resolvers of multicast DNS are left out.
    """
    default: dict[Upstream, None] = {}
    domains: dict[bytes, dict[Upstream, None]] = {}
    search: set[bytes] = set()
    general = text.split("(for scoped queries)", 1)[0]
    for number, block in enumerate(re.split(r"^resolver #\d+$", general, flags=re.MULTILINE)[1:]):
        values: dict[str, list[str]] = {}
        for line in block.splitlines():
            if match := _LINE.match(line):
                values.setdefault(match[1], []).append(match[2])
        if "mdns" in " ".join(values.get("options", ())).split():
            continue
        port = _port(values.get("port", ["53"])[0])
        servers = dict.fromkeys(Upstream(address, port) for address in values.get("nameserver", ()))
        search |= wire_names(values.get("search domain", ()))
        domain = _domain(values.get("domain", [""])[0])
        if domain is None:
            continue
        if number == 0 or domain == b"\0":
            default |= servers
            search.add(domain)
        elif servers:
            domains.setdefault(domain, {}).update(servers)
    return Upstreams(
        tuple(default), {domain: tuple(servers) for domain, servers in domains.items()}, frozenset(search - {b"\0"})
    )


def _port(text: str) -> int:
    return int(text) if text.isdecimal() else 53


def _domain(text: str) -> bytes | None:
    try:
        return to_wire(text)
    except ValueError:
        return None


def read() -> Upstreams:
    """Runs scutil. Raises OSError where it cannot be run or fails."""
    try:
        done = subprocess.run(["/usr/sbin/scutil", "--dns"], capture_output=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise OSError(f"`scutil --dns` failed ({error}): no DNS servers of this host") from error
    return parse_scutil(done.stdout.decode("utf-8", "replace"))


def watched_folders() -> list[Path]:
    """The folders of resolver(5) files, and of the resolv.conf that macOS writes when its network changes; some
    may not exist."""
    return [Path(folder) for folder in _FOLDERS]
