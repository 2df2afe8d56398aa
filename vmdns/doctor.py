"""`vmdns doctor`: gathers what is known and what this host does, and has it examined."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode

from vmdns import hosting
from vmdns.core.builder import Builder
from vmdns.core.doctor import Finding, Host, Patient, examine, is_well
from vmdns.core.model import Fact, Machine
from vmdns.core.policy import Policy
from vmdns.core.program_output import decode_console
from vmdns.sources.installation import find

RESOLVER_SECONDS = 3.0


def examined(status: Mapping[str, Any] | None, facts: Iterable[Fact], policy: Policy) -> list[Finding]:
    """All findings. status: that of the running vmdns, None where none runs; facts: what it, or a look of one's own,
    sees."""
    found = tuple(facts)
    builder = Builder(policy)
    for key, fact in enumerate(found):
        builder.put(key, fact)
    snapshot = builder.build(time.time(), 0).snapshot
    host = gather(status, policy.zones)
    online = [fact.uuid for fact in found if isinstance(fact, Machine) and fact.online]
    return examine(Patient(status, found, snapshot.guests, snapshot.ways, host, time.time(), products(online)))


def products(uuids: Iterable[str]) -> dict[str, str]:
    """The operating systems that Guest Additions report for these VMs (`/VirtualBox/GuestInfo/OS/Product`)."""
    installation = find(os.environ)
    if installation is None:
        return {}
    name = "/VirtualBox/GuestInfo/OS/Product"
    told = {uuid: _output(str(installation.vboxmanage), "-q", "guestproperty", "get", uuid, name) for uuid in uuids}
    return {uuid: text.partition(": ")[2].strip() for uuid, text in told.items() if text.startswith("Value: ")}


def answer(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as JSON values; well says whether none of them is a problem."""
    return {"well": is_well(findings), "findings": [one._asdict() for one in findings]}


def gather(status: Mapping[str, Any] | None, zones: Sequence[str]) -> Host:
    """What this host does: whom its resolver asks, its firewall, its upstreams."""
    answered = {zone: resolves(f"vmdns.{zone}") for zone in zones} if status is not None else {}
    servers = [str(one["address"]) for one in status["upstreams"]] if status is not None else []
    return Host(
        zones_answered=answered,
        firewall=firewall(),
        answers_local=tuple(one for one in servers if answers_local(one)),
        encrypted=tuple(encrypted(Path.home(), os.environ)),
        system=sys.platform,
        asking=asking(status, zones),
    )


def asking(status: Mapping[str, Any] | None, zones: Sequence[str]) -> str:
    """The command that makes this host ask vmdns."""
    try:
        hosting.look(False, hosting.place_of(status), tuple(zones))
    except (hosting.Refused, OSError):
        return "vmdns host --whole --apply"
    return "vmdns host --apply"


def resolves(name: str) -> bool:
    """Whether this host's own resolver knows the name. One that is stuck is given up."""
    found: list[object] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(RESOLVER_SECONDS)
    return bool(found)


def answers_local(server: str) -> bool:
    """Whether an upstream (ADDRESS:PORT) has an answer for a name in `local` that nobody has: some providers' do."""
    address, _, port = server.rpartition(":")
    question = dns.message.make_query(f"vmdns-{secrets.token_hex(6)}.local", "A")
    try:
        reply = dns.query.udp(question, address.strip("[]"), port=int(port), timeout=RESOLVER_SECONDS)
    except (OSError, ValueError, dns.exception.DNSException):
        return False
    return reply.rcode() == dns.rcode.NOERROR and bool(reply.answer)


def encrypted(home: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Browsers of this user that were told to use DNS over HTTPS, by their own settings files."""
    local = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    roaming = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    support = home / "Library" / "Application Support"
    for folder in (
        home / ".mozilla" / "firefox",
        support / "Firefox" / "Profiles",
        roaming / "Mozilla/Firefox/Profiles",
    ):
        # Modes 2 and 3 of network.trr.mode ask by HTTPS first, or by nothing else.
        if any(re.search(r'"network\.trr\.mode", [23]\)', text) for text in _texts(folder, "*/prefs.js")):
            yield "Firefox with DNS over HTTPS"
    for name, folder in (
        ("Chrome", home / ".config" / "google-chrome"), ("Chromium", home / ".config" / "chromium"),
        ("Chrome", support / "Google" / "Chrome"), ("Chrome", local / "Google" / "Chrome" / "User Data"),
        ("Edge", local / "Microsoft" / "Edge" / "User Data"),
    ):  # fmt: skip
        # In mode "automatic", which is the default, HTTPS is used only where the system's own server offers it.
        if any(re.search(r'"dns_over_https":\{[^}]*"mode":"secure"', text) for text in _texts(folder, "Local State")):
            yield f"{name} with DNS over HTTPS"


def _texts(folder: Path, pattern: str) -> Iterator[str]:
    for file in sorted(folder.glob(pattern))[:20]:
        with contextlib.suppress(OSError):
            yield file.read_text(encoding="utf-8", errors="replace")


def firewall() -> tuple[str, str] | None:
    """The firewall that is on and lets no question in, and what would let it; None where that cannot be told."""
    if sys.platform == "linux":
        return linux_firewall(_output("ufw", "status"), _output("firewall-cmd", "--list-services"))
    if sys.platform == "win32":
        return windows_firewall(_output("netsh", "advfirewall", "firewall", "show", "rule", "name=vmdns"))
    if sys.platform == "darwin":
        return macos_firewall(_output("/usr/libexec/ApplicationFirewall/socketfilterfw", "--getglobalstate"))
    return None


def linux_firewall(ufw: str, firewalld: str) -> tuple[str, str] | None:
    """From `ufw status` and `firewall-cmd --list-services`; both are empty for who may not ask."""
    if "Status: active" in ufw and not any(
        line.split()[:1] in (["53"], ["53/udp"], ["DNS"]) for line in ufw.splitlines()
    ):
        return "ufw", "sudo ufw allow 53"
    services = firewalld.split()
    if services and "dns" not in services:
        return "firewalld", "sudo firewall-cmd --permanent --add-service=dns && sudo firewall-cmd --reload"
    return None


def windows_firewall(rule: str) -> tuple[str, str] | None:
    """From `netsh advfirewall firewall show rule name=vmdns`: it lists ports of rules, whatever the language."""
    if any(line.split()[-1:] == ["53"] for line in rule.splitlines()):
        return None
    command = "netsh advfirewall firewall add rule name=vmdns dir=in action=allow protocol=UDP localport=53"
    return "Windows Defender Firewall", command


def macos_firewall(state: str) -> tuple[str, str] | None:
    """From `socketfilterfw --getglobalstate`: it asks for programs, not for ports."""
    if "State = 1" not in state and "State = 2" not in state:
        return None
    return None if "State = 1" in state else ("the firewall (it blocks all)", "open x-apple.systempreferences:")


def _output(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, timeout=5, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return decode_console(run.stdout, sys.platform)
