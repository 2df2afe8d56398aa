"""Any output of a system's command, and any file of its or of VirtualBox's networks, gives values or its one error.

The first byte of the data chooses whose output the rest is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from vmdns.host import launchd, resolver_linux, resolver_macos, systemd, task_scheduler
from vmdns.host.upstreams_linux import parse_earlier_servers, render_resolv_conf
from vmdns.host.virtualbox_dhcp import parse_networks, parse_started_group
from vmdns.host.windows_firewall import RULES, find_verdict

READERS: tuple[tuple[Callable[[str], Any], type[Exception] | None], ...] = (
    (lambda text: parse_networks(text.encode("latin-1", "replace")), ValueError),
    (lambda text: parse_started_group(text.encode("latin-1", "replace")), ValueError),
    (task_scheduler.parse_task, OSError),
    (lambda text: find_verdict({RULES: {"rule": text}}, "public", 17, "192.168.56.1", "x").let_in, None),
    (resolver_linux.parse_version, None),
    (resolver_macos.parse_servers, None),
    (resolver_macos.parse_order, None),
    (resolver_macos.parse_devices, None),
    (resolver_macos.parse_packet, None),
    (launchd.parse_print, None),
    (launchd.parse_disabled, None),
    (systemd.parse_show, None),
)


def check(data: bytes) -> None:
    which = data[0] % (len(READERS) + 1) if data else 0
    text = data[1:].decode("latin-1" if which < 2 else "utf-8", "replace")
    if which == len(READERS):
        earlier = parse_earlier_servers(text)
        if earlier is not None:
            assert parse_earlier_servers(render_resolv_conf(text, earlier, "127.0.0.1")) == earlier
        return
    read, error = READERS[which]
    with contextlib.suppress(error or ()):
        found = read(text)
        if isinstance(found, dict) and which > 1:
            json.dumps(found)
