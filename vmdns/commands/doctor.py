"""`vmdns doctor`: collects the findings of the server and the checks of this computer."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode

from vmdns.commands import FAILED, CommandError, direct_read
from vmdns.commands.host import listen_address
from vmdns.commands.server_request import RunningServer
from vmdns.config import Config, Options
from vmdns.files import read_regular
from vmdns.host import hosts_block, windows_firewall
from vmdns.host.elevation import read_output
from vmdns.host.folders import hosts_path
from vmdns.host.resolver import plan_resolver
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.facts import Fact
from vmdns.state.findings import OK, PROBLEM, WARNING, Finding, has_no_problem, join_words, summarize_findings
from vmdns.state.views import GIVEN

UPSTREAM_SECONDS = 3.0
CHECKS_SECONDS = 5.0  # for all checks of this computer together
SERVER_SECONDS = 60  # for the running vmdns, or a look at VirtualBox
# A user is never left without a line for longer. The first comes after half of it: starting takes time as well.
REPORT_SECONDS = 1.0
_MAX_BYTES = 16 * 1024 * 1024  # of a browser's settings
_MACOS_FIREWALL = "/usr/libexec/ApplicationFirewall/socketfilterfw"
_BLOCKED_PYTHON = re.compile(
    r"^\d+ *: +(/\S.*?/python[0-9.]*(?:\.app)?)/? *\n\s*\( ?Block incoming connections ?\)",
    re.MULTILINE | re.IGNORECASE,
)

Log = Callable[[str], None]


def command(server: RunningServer, options: Options, log: Log) -> dict[str, Any]:
    """The response of `vmdns doctor`; log gets a line for what takes long. Raises `CommandError`."""

    def collect() -> tuple[dict[str, Any] | None, list[Finding]]:
        status = server.request_if_running({"do": "status"})
        if status is not None:
            return status, [Finding(**one) for one in server.request({"do": "doctor"})["findings"]]
        log("no vmdns runs; this is one look at VirtualBox")
        return None, look(direct_read.load_config(None, options)[0])

    what = "vmdns or VirtualBox"
    late = CommandError(f"no answer within {SERVER_SECONDS} s")
    found = run_parallel({what: collect}, SERVER_SECONDS, log).get(what, late)
    if isinstance(found, CommandError) and found.status == FAILED:
        # A vmdns that does not answer is a finding as well; this computer is checked all the same.
        found = None, [Finding("vmdns", PROBLEM, str(found).removeprefix("vmdns "), "vmdns run")]
    if isinstance(found, Exception):
        raise found
    status, findings = found
    # The settings of this computer do not matter to simulated VMs.
    return respond(findings if server.simulation else [*findings, *check_host(status, log)])


def respond(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings as JSON values, problems last; well says whether none of them is a problem."""
    ordered = sorted(dict.fromkeys(findings), key=lambda one: (OK, WARNING, PROBLEM).index(one.level))
    shown = [one._asdict() for one in ordered]
    return {"well": has_no_problem(ordered), "verdict": summarize_findings(ordered), "findings": shown}


def look(config: Config) -> list[Finding]:
    """The findings of one look at VirtualBox, where no vmdns runs."""
    facts: list[Fact] = []
    failed = []
    try:
        facts = direct_read.read_facts(config)
    except OSError as error:
        failed = [Finding("VirtualBox", PROBLEM, str(error).removeprefix("VirtualBox "))]
    now = time.time()
    snapshot = build(facts, config.policy(), now, 0)
    return [*find_findings(DoctorInput(None, tuple(facts), snapshot, now)), *failed]


def run_parallel(tasks: Mapping[str, Callable[[], Any]], seconds: float, log: Log) -> dict[str, Any]:
    """What the tasks that end within `seconds` return or raise, by the tasks' names; the others are abandoned.

    `log` is given a line at least once a second with the tasks still running.
    """
    results: dict[str, Any] = {}

    def run(name: str, task: Callable[[], Any]) -> None:
        try:
            results[name] = task()
        except Exception as error:
            results[name] = error

    # Not of concurrent.futures: the interpreter waits at its end for threads of those, also for one that is stuck.
    threads = {name: threading.Thread(target=run, args=(name, task), daemon=True) for name, task in tasks.items()}
    for thread in threads.values():
        thread.start()
    began = time.monotonic()
    next_report = began + REPORT_SECONDS / 2
    while pending := [name for name, thread in threads.items() if thread.is_alive()]:
        now = time.monotonic()
        if now >= began + seconds:
            break
        if now >= next_report:
            log(f"still waiting for {', '.join(pending)}")
            next_report += REPORT_SECONDS
        threads[pending[0]].join(max(0.0, min(next_report, began + seconds) - now))
    return dict(results)


def check_host(status: Mapping[str, Any] | None, log: Log) -> Iterator[Finding]:
    """The findings about this computer, by checks that run at the same time: what one that fails or takes longer than
    CHECKS_SECONDS would find is unknown. status is that of the running vmdns."""
    zones = status["zones"] if status else []
    servers = [str(one["address"]) for one in status["upstreams"]] if status else []
    checks: dict[str, Callable[[], Any]] = {
        "the firewall": lambda: firewall(outer_addresses(status), status["pid"] if status else 0),
        "the hosts file": lambda: hosts_block.read(hosts_path()),
        "the browsers": lambda: list(encrypted(Path.home(), os.environ)),
        "the system's DNS settings": lambda: plan_resolver(False, listen_address(status), tuple(zones)),
    }
    checks |= {f"this computer's resolver ({zone})": partial(resolve, f"vmdns.{zone}") for zone in zones}
    checks |= {f"the upstream {one}": partial(answers_local, one) for one in servers}
    ended = run_parallel(checks, CHECKS_SECONDS, log)
    found = {name: result for name, result in ended.items() if not isinstance(result, Exception)}

    answered = [zone for zone in zones if found.get(f"this computer's resolver ({zone})")]
    if answered:
        yield Finding("this computer", OK, f"asks vmdns for names in {join_words(answered)}")
    # On other systems multicast DNS has `local`.
    missing = [one for one in zones if one not in answered and (sys.platform == "linux" or one != "local")]
    if missing and found.get("the hosts file"):
        yield Finding("this computer", OK, "has the names of VMs in its hosts file")
    elif missing:
        text = f"does not ask vmdns for names in {join_words(missing)}"
        command = "vmdns host --apply" if "the system's DNS settings" in found else "vmdns hosts --keep"
        yield Finding("this computer", WARNING, text, command)
    if closed := found.get("the firewall"):
        name, command = closed
        yield Finding("this computer", PROBLEM, f"{name} does not let queries of guests in", command)
    for server in servers:
        if found.get(f"the upstream {server}"):
            text = "answers names in local itself; vmdns never asks it for them, but others might"
            yield Finding("upstream", WARNING, f"the upstream {server} {text}")
    for browser in found.get("the browsers", ()):
        text = f"{browser} does not use the system's resolver, so it does not find names of VMs"
        yield Finding("this computer", WARNING, text)


def outer_addresses(status: Mapping[str, Any] | None) -> list[str]:
    """The addresses at which the running vmdns is asked from outside of this computer. Guests of a NAT Network ask from
    this computer itself, which firewalls let pass."""
    listeners = status["listeners"] if status else []
    found = [one["address"] for one in listeners if one["state"] == "listening" and one["port"] == 53]
    return [one for one in found if not ip_address(one).is_loopback and ip_address(one) not in GIVEN]


def resolve(name: str) -> list[Any]:
    """What this computer's own resolver answers for the name. Raises OSError, UnicodeError where it knows none."""
    return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)


def answers_local(server: str) -> bool:
    """Whether an upstream (ADDRESS:PORT) has an answer for a name in `local` that nobody has: some providers' do.
    Raises OSError, ValueError, DNSException where it does not answer."""
    address, _, port = server.rpartition(":")
    question = dns.message.make_query(f"vmdns-{secrets.token_hex(6)}.local", "A")
    reply = dns.query.udp(question, address.strip("[]"), port=int(port), timeout=UPSTREAM_SECONDS)
    return reply.rcode() == dns.rcode.NOERROR and bool(reply.answer)


def encrypted(home: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Browsers of this user whose settings files turn DNS over HTTPS on."""
    local = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    roaming = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    support = home / "Library" / "Application Support"
    # Modes 2 and 3 of network.trr.mode ask by HTTPS first, or by nothing else.
    firefox = "*/prefs.js", r'"network\.trr\.mode", [23]\)'
    # In mode "automatic", which is the default, HTTPS is used only where the system's own server offers it.
    chromium = "Local State", r'"dns_over_https":\{[^}]*"mode":"secure"'
    for name, folder, (pattern, setting) in (
        ("Firefox", home / ".mozilla" / "firefox", firefox),
        ("Firefox", support / "Firefox" / "Profiles", firefox),
        ("Firefox", roaming / "Mozilla/Firefox/Profiles", firefox),
        ("Chrome", home / ".config" / "google-chrome", chromium),
        ("Chromium", home / ".config" / "chromium", chromium),
        ("Chrome", support / "Google" / "Chrome", chromium),
        ("Chrome", local / "Google" / "Chrome" / "User Data", chromium),
        ("Edge", local / "Microsoft" / "Edge" / "User Data", chromium),
    ):
        for file in sorted(folder.glob(pattern))[:20]:
            with contextlib.suppress(OSError):
                if re.search(setting, read_regular(file, _MAX_BYTES).decode("utf-8", "replace")):
                    yield f"{name} with DNS over HTTPS"
                    break


def firewall(addresses: Sequence[str], pid: int) -> tuple[str, str] | None:
    """The firewall that is on and lets no query in to these addresses of this computer, at which the process `pid`
    listens, and the command that lets it; None where that is not known. May raise any error where it is not read."""
    if not addresses:
        return None
    if sys.platform == "linux":
        return linux_firewall(read_output("ufw", "status"), read_output("firewall-cmd", "--list-all"), addresses)
    if sys.platform == "win32":
        import psutil

        program = psutil.Process(pid).exe()
        return windows_firewall.describe_closed(
            windows_firewall.find_closed(windows_firewall.read_registry(), addresses, program)
        )
    if sys.platform == "darwin":
        return macos_firewall(
            read_output(_MACOS_FIREWALL, "--getglobalstate"), read_output(_MACOS_FIREWALL, "--listapps")
        )
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


def macos_firewall(state: str, apps: str) -> tuple[str, str] | None:
    """From `socketfilterfw --getglobalstate` and `--listapps`, which asks for programs, not for ports.

    `--getappblocked` calls every program permitted. Python is listed by its app or its program.
    """
    if "State = 2" in state:
        return "the firewall (it blocks all)", "open x-apple.systempreferences:"
    blocked = _BLOCKED_PYTHON.search(apps)
    if "State = 1" not in state or blocked is None:
        return None
    return "the firewall (it blocks Python)", f"sudo {_MACOS_FIREWALL} --unblockapp {shlex.quote(blocked[1])}"
