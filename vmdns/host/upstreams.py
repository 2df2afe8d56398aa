"""The DNS servers that this host itself uses. What is found now; `watched` and POLL_SECONDS say when to look again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host.loopback_address import WHOLE

if sys.platform == "win32":
    from vmdns.host import upstreams_windows as system

    # The registry could be waited for, but not from a selector loop.
    POLL_SECONDS = 5.0
elif sys.platform == "darwin":
    from vmdns.host import upstreams_macos as system

    POLL_SECONDS = 30.0
else:
    from vmdns.host import upstreams_linux as system

    POLL_SECONDS = 0.0


def read_upstreams() -> Upstreams:
    """Looks now. May block for seconds: call it in a thread. Raises OSError with a text for the user."""
    found = system.read()
    if sys.platform not in ("win32", "darwin"):
        return system.with_proxy(found)
    return _before_us(found) if WHOLE in found.resolvers else found


def _before_us(found: Upstreams) -> Upstreams:
    """The servers to ask where this host is told to ask vmdns for everything: those typed in before, else DHCP's."""
    from vmdns.host.earlier_run import typed_in

    servers = tuple(map(Upstream, typed_in())) or tuple(one for one in found.default if one.address != WHOLE)
    if not servers and sys.platform == "darwin":
        from vmdns.host.resolver_macos import given

        servers = tuple(map(Upstream, given()))
    return replace(found, default=servers, stub=(WHOLE,))


def watched() -> list[Path]:
    """Folders (not their subfolders) in which a change means: look again. Some may not exist yet."""
    if sys.platform == "win32":
        return []
    return system.watched()
