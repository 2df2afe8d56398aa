"""`vmdns doctor`: collects the findings of the server and the checks of this computer."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode

from vmdns.commands import FAILED, CommandError, direct_read
from vmdns.commands import host as hosting
from vmdns.commands.parallel import run_parallel
from vmdns.commands.server_request import RunningServer
from vmdns.config import Config
from vmdns.host import hosts_block as hostsfile
from vmdns.host.folders import hosts_path
from vmdns.regular_file import read_regular
from vmdns.sources.reader import ReaderUnavailable
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.external_data import decode_console
from vmdns.state.facts import Fact
from vmdns.state.findings import (
    OK,
    PROBLEM,
    WARNING,
    Finding,
    HostState,
    find_host_findings,
    has_no_problem,
    summarize_findings,
)
from vmdns.state.policy import Policy
from vmdns.state.views import GIVEN

UPSTREAM_SECONDS = 3.0
_MOST_BYTES = 16 * 1024 * 1024  # of a browser's settings
CHECKS_SECONDS = 5.0  # for all checks of this computer together
SERVER_SECONDS = 60  # for a response of the running vmdns, or a look at VirtualBox

Report = Callable[[str], None]


def command(server: RunningServer, config: Callable[[], Config], report: Report) -> dict[str, Any]:
    """The response of `vmdns doctor`; report gets a line for what takes long. Raises `CommandError`."""
    try:
        (status,) = run_parallel(
            {"vmdns": lambda: server.request_if_running({"do": "status"})}, SERVER_SECONDS, report
        ).values()
        if status is None:
            report("no vmdns runs; this is one look at VirtualBox")
        what, task = ("VirtualBox", partial(look, config)) if status is None else ("vmdns", partial(ask, server))
        (findings,) = run_parallel({what: task}, SERVER_SECONDS, report).values()
    except ValueError:
        raise CommandError(f"no answer within {SERVER_SECONDS} s") from None
    except CommandError as error:
        if error.status != FAILED:
            raise
        # A vmdns that does not answer is a finding as well; this computer is checked all the same.
        status, findings = None, [Finding("vmdns", PROBLEM, str(error).removeprefix("vmdns "), "vmdns run")]
    # The settings of this computer do not matter to simulated VMs.
    on_host = [] if server.simulation else list(find_host_findings(gather(status, report)))
    return answer([*findings, *on_host])


def look(config: Callable[[], Config]) -> list[Finding]:
    """The findings of one look at VirtualBox, where no vmdns runs. Raises `CommandError`."""
    using = config()
    policy = using.policy()
    try:
        return examined(direct_read.read_facts(using), policy)
    except (ReaderUnavailable, OSError) as error:
        what = Finding("VirtualBox", PROBLEM, str(error).removeprefix("VirtualBox "))
        return [*examined([], policy), what]


def ask(server: RunningServer) -> list[Finding]:
    """The findings of the running vmdns. Raises `CommandError`."""
    return [Finding(**one) for one in server.request({"do": "doctor"})["findings"]]


def examined(facts: Iterable[Fact], policy: Policy) -> list[Finding]:
    """The findings where no vmdns runs. facts: what one look at VirtualBox found."""
    found = tuple(facts)
    now = time.time()
    snapshot = build(found, policy, now, 0)
    return find_findings(DoctorInput(None, found, snapshot.guests, snapshot.ways, now))


def answer(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings as JSON values, problems last; well says whether none of them is a problem."""
    ordered = sorted(dict.fromkeys(findings), key=lambda one: (OK, WARNING, PROBLEM).index(one.level))
    return {
        "well": has_no_problem(ordered),
        "verdict": summarize_findings(ordered),
        "findings": [one._asdict() for one in ordered],
    }


def gather(status: Mapping[str, Any] | None, report: Report) -> HostState:
    """Checks this computer: its resolver, its firewall, the upstreams of the running vmdns. All checks run at
    the same time, and those that take longer than CHECKS_SECONDS are left out."""
    zones = status["zones"] if status is not None else []
    servers = [str(one["address"]) for one in status["upstreams"]] if status is not None else []
    checks: dict[str, Callable[[], Any]] = {
        "the firewall": partial(firewall, doors(status)),
        "the hosts file": has_hosts_block,
        "the browsers": lambda: tuple(encrypted(Path.home(), os.environ)),
        "the system's DNS settings": lambda: asking(status, zones),
    }
    checks.update({f"this computer's resolver ({zone})": partial(resolves, f"vmdns.{zone}") for zone in zones})
    checks.update({f"the upstream {one}": partial(answers_local, one) for one in servers})
    found = run_parallel(checks, CHECKS_SECONDS, report)
    return HostState(
        zones_answered={zone: found.get(f"this computer's resolver ({zone})", False) for zone in zones},
        firewall=found.get("the firewall"),
        answers_local=tuple(one for one in servers if found.get(f"the upstream {one}")),
        encrypted=found.get("the browsers", ()),
        system=sys.platform,
        asking=found.get("the system's DNS settings", HostState.asking),
        hosts_block=found.get("the hosts file", False),
    )


def doors(status: Mapping[str, Any] | None) -> list[str]:
    """The addresses at which the running vmdns is asked from outside of this computer. Guests of a NAT Network ask from
    this computer itself, which firewalls let pass."""
    listeners = status["listeners"] if status is not None else []
    found = [one["address"] for one in listeners if one["state"] == "listening" and one["port"] == 53]
    return [one for one in found if not ip_address(one).is_loopback and ip_address(one) not in GIVEN]


def asking(status: Mapping[str, Any] | None, zones: Sequence[str]) -> str:
    """The command that makes this computer find names of VMs and changes least."""
    try:
        hosting.look(False, hosting.place_of(status), tuple(zones))
    except (CommandError, OSError):
        return "vmdns hosts --keep"
    return "vmdns host --apply"


def has_hosts_block() -> bool:
    """Whether `vmdns hosts` has written names into the hosts file."""
    try:
        return bool(hostsfile.read(hosts_path()))
    except (OSError, ValueError):
        return False


def resolves(name: str) -> bool:
    """Whether this computer's own resolver knows the name."""
    try:
        return bool(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):
        return False


def answers_local(server: str) -> bool:
    """Whether an upstream (ADDRESS:PORT) has an answer for a name in `local` that nobody has: some providers' do."""
    address, _, port = server.rpartition(":")
    question = dns.message.make_query(f"vmdns-{secrets.token_hex(6)}.local", "A")
    try:
        reply = dns.query.udp(question, address.strip("[]"), port=int(port), timeout=UPSTREAM_SECONDS)
    except (OSError, ValueError, dns.exception.DNSException):
        return False
    return reply.rcode() == dns.rcode.NOERROR and bool(reply.answer)


def encrypted(home: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Browsers of this user whose settings files turn DNS over HTTPS on."""
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
            yield read_regular(file, _MOST_BYTES).decode("utf-8", "replace")


def firewall(addresses: Sequence[str]) -> tuple[str, str] | None:
    """The firewall that is on and lets no query in to these addresses of this computer, and the command that lets it;
    None where that is not known."""
    if sys.platform == "linux":
        return linux_firewall(_output("ufw", "status"), _output("firewall-cmd", "--list-all"), addresses)
    if sys.platform == "win32":
        return windows_firewall(_output("netsh", "advfirewall", "firewall", "show", "rule", "name=vmdns"), addresses)
    if sys.platform == "darwin":
        return macos_firewall(_output("/usr/libexec/ApplicationFirewall/socketfilterfw", "--getglobalstate"))
    return None


def linux_firewall(ufw: str, firewalld: str, addresses: Sequence[str]) -> tuple[str, str] | None:
    """From `ufw status` and `firewall-cmd --list-all`; both are empty for a user who may not ask.

    The command lets queries in to these addresses alone, not to those of every network.
    """
    rules = [line.split() for line in ufw.splitlines()]
    open_to_all = any(words[:1] in (["53"], ["53/udp"], ["DNS"]) for words in rules)
    closed = [one for one in addresses if not any(words[:2] in ([one, "53"], [one, "53/udp"]) for words in rules)]
    if "Status: active" in ufw and not open_to_all and closed:
        return "ufw", " && ".join(f"sudo ufw allow to {one} port 53" for one in closed)
    services = re.search(r"^ *services:(.*)$", firewalld, re.MULTILINE)
    ruled = [line for line in firewalld.splitlines() if re.search(r'service name="?dns\b.*accept', line)]
    closed = [one for one in addresses if not any(f'"{one}"' in line for line in ruled)]
    if services and "dns" not in services[1].split() and closed:
        commands = [
            f"sudo firewall-cmd --permanent --add-rich-rule='rule family=ipv{ip_address(one).version} "
            f"destination address={one} service name=dns accept'"
            for one in closed
        ]
        return "firewalld", " && ".join([*commands, "sudo firewall-cmd --reload"])
    return None


def windows_firewall(rule: str, addresses: Sequence[str]) -> tuple[str, str] | None:
    """From `netsh advfirewall firewall show rule name=vmdns`: it lists ports of rules, whatever the language."""
    if not addresses or any(line.split()[-1:] == ["53"] for line in rule.splitlines()):
        return None
    command = "netsh advfirewall firewall add rule name=vmdns dir=in action=allow protocol=UDP localport=53"
    return "Windows Defender Firewall", f"{command} localip={','.join(addresses)}"


def macos_firewall(state: str) -> tuple[str, str] | None:
    """From `socketfilterfw --getglobalstate`: it asks for programs, not for ports."""
    if "State = 1" not in state and "State = 2" not in state:
        return None
    return None if "State = 1" in state else ("the firewall (it blocks all)", "open x-apple.systempreferences:")


def _output(*command: str) -> str:
    try:
        run = subprocess.run(
            command,
            capture_output=True,
            timeout=CHECKS_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # ufw translates what it prints
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return decode_console(run.stdout, sys.platform)
