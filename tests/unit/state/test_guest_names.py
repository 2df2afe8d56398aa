"""What VMs may be called, and which names come of it (threats T2, T6 and T17): the table of 60 hostile names.

A VM's name is the host's user's choice, but people import appliances and clone what strangers made.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.facts import LAB, NETWORKS, NOW, lease, report, uuid, vm
from vmdns.dns.name import to_text
from vmdns.state.build import build
from vmdns.state.snapshot import Policy

UNNAMED = "vm-00000000"
NAMES = {
    # Names of others: only one label below our own zones comes of them.
    "www.google.com": "www-google-com", "web.local": "web-local", "web.vm.internal": "web-vm-internal",
    "a.b.c.d.e": "a-b-c-d-e", "local": "local", "arpa": "arpa", "*.local": "local", "web\\.local": "web-local",
    "_acme-challenge": "acme-challenge", "_gateway": "gateway", "gateway": "gateway",
    # Names by which machines find services without configuration, in any spelling.
    "localhost": "localhost-2", "LOCALHOST": "localhost-2", "localhost.": "localhost-2", "wpad": "wpad-2",
    "WPAD.": "wpad-2", "isatap": "isatap-2", "localdomain": "localdomain-2", "broadcasthost": "broadcasthost-2",
    "vmdns": "vmdns-2", "localhost\u00ad": "localhost-2", "l\u200bocalhost": "localhost-2",
    "\uff4cocalhost": "localhost-2", "localho\u017ft": "localhost-2", "\u202etsohlacol": "tsohlacol",
    # Nothing that DNS can carry.
    "*": UNNAMED, "": UNNAMED, "   ": UNNAMED, ".": UNNAMED, "..": UNNAMED, "...": UNNAMED, '"': UNNAMED, "@": UNNAMED,
    "\x00": UNNAMED, "\u200b": UNNAMED, "🦀": UNNAMED, "-": UNNAMED,
    # What a shell, a path, a line of a file or a terminal would take for something else.
    "../x": "x", "../../etc/hosts": "etc-hosts", "'; rm -rf / #": "rm-rf", "$(reboot)": "reboot", "%2e%2e": "2e-2e",
    "x\n127.0.0.1 bank.com": "x-127-0-0-1-bank-com", "x\r\n": "x", "a\tb": "a-b", "#comment": "comment",
    "\x1b[31mred": "31mred", "web\u202ebew": "webbew", "web\u2028x": "web-x", "\ufeffweb": "web", "\ud800bad": "bad",
    "<img src=x onerror=alert(1)>": "img-src-x-onerror-alert-1",
    # Lengths, hyphens, numbers, other scripts.
    "a" * 64: "a" * 63, "a" * 5000: "a" * 63, "-x": "x", "x-": "x", "-n": "n", "1": "1", "10.0.2.4": "10-0-2-4",
    "::1": "1", "fe80::1%eth0": "fe80-1-eth0", "xn--": "xn", "xn--a": "xn-a", "аррӏе": "xn--80ak6aa92e",
    "xn--80ak6aa92e": "xn--80ak6aa92e", "Ｗｅｂ": "web", "🦀crab🦀": "crab",
}  # fmt: skip


# Names that end in a zone: the VM has that name as well.
ZONE_NAMES = {"web.local": ("web",), "web.vm.internal": ("web",), "web\\.local": ("web",)}


@pytest.mark.parametrize(("name", "label"), NAMES.items(), ids=[ascii(name)[:20] for name in NAMES])
def test_a_name_and_what_comes_of_it(name: str, label: str) -> None:
    machine = replace(vm(1), name=name)
    snapshot = build((*NETWORKS, machine, lease(1, "10.0.2.4")), Policy(), NOW, 1)
    owners = {to_text(owner) for owner in snapshot.owned}
    given = (label, uuid(1), *ZONE_NAMES.get(name, ()))
    assert owners == {f"{one}.{zone}" for one in given for zone in ("local", "vm.internal")}
    for owner in owners:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.(local|vm\.internal)", owner, re.ASCII)


def test_no_name_comes_from_a_guest() -> None:
    """Whatever a guest reports or asks of a DHCP server, no fact that it can shape has a name in it."""
    machine = vm(1, "web", LAB, reports=(report(1, "10.0.2.4"), report(9, "10.0.2.9")))
    snapshot = build((*NETWORKS, machine, lease(1, "10.0.2.4")), Policy(), NOW, 1)
    assert {to_text(owner).partition(".")[0] for owner in snapshot.owned} == {"web", uuid(1)}
