"""`vmdns host`: plans and applies resolver settings, from this machine's resolver, vmdns' listeners and the journal."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vmdns.commands import NOT_RUNNING, CommandError, command_name
from vmdns.dns.query import encode_query
from vmdns.host import plan
from vmdns.host.elevation import ElevationDenied
from vmdns.host.journal import open_host_journal
from vmdns.host.loopback_address import LoopbackAddress, is_assigned
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.upstreams import HOST_SCOPE

ANSWER_SECONDS = 10.0  # vmdns looks every five seconds whether an address is there
_SOA = 6
_ASK_SECONDS = 0.5
_PORT = 53


def command(
    action: str, whole: bool, status: dict[str, Any] | None, zones: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """What `vmdns host` answers, as JSON values: action is plan, apply or undo. status is that of a vmdns that runs.

    Raises `CommandError`, or OSError.
    """
    try:
        return _command(action, whole, status, zones, say)
    except ElevationDenied:
        raise CommandError(
            "this needs root, and there is no sudo or no terminal to ask for it; the command lines that "
            "`vmdns host` shows do the same by hand"
        ) from None


def _command(
    action: str, whole: bool, status: dict[str, Any] | None, zones: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    done = action != "plan"
    if action == "undo":
        todo, left = undo_steps()
        shown = [one.as_json() for one in todo]
        plan.undo(open_host_journal(), HOST_SCOPE, make, say)
        return {"steps": shown, "left": left, "notes": [], "done": done}
    ask = look(whole, place_of(status), zones)
    todo = plan.plan(ask.wanted)
    shown = [one.as_json() for one in todo]
    if done and todo:
        if ask.check and status is None:
            raise CommandError(
                f"no vmdns runs here, so this computer would ask nobody; start one with: {command_name()} run",
                NOT_RUNNING,
            )
        apply(ask, todo, say)
    return {"steps": shown, "left": [], "notes": list(ask.notes) if todo else [], "done": done}


def place_of(status: Mapping[str, Any] | None) -> ListenAddress:
    """Where vmdns is to be asked, by its status; 127.0.0.1 port 53 where none runs. Raises `CommandError`."""
    if status is None:
        return ListenAddress()
    listening = [one for one in status["listeners"] if one["state"] == "listening"]
    here = [ListenAddress(one["address"], one["port"]) for one in listening]
    for one in sorted(here, key=lambda at: (at.address != "127.0.0.1", ":" in at.address, at.port != 53)):
        return one
    raise CommandError("vmdns listens nowhere now; see vmdns status")


def look(whole: bool, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan:
    """What is to be set on this machine. Raises `CommandError`, or OSError where it cannot be looked at."""
    found = _windows(whole, at, zones) if sys.platform == "win32" else _posix(whole, at, zones)
    if isinstance(found, Refusal):
        raise CommandError(found.text)
    return found


def _posix(whole: bool, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    if sys.platform == "darwin":
        from vmdns.host import resolver_macos

        return resolver_macos.whole(resolver_macos.services()) if whole else resolver_macos.split(at, zones)
    from vmdns.host import resolver_linux

    return (resolver_linux.whole if whole else resolver_linux.split)(resolver_linux.look(), at, zones)


def _windows(whole: bool, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    from vmdns.host import resolver_windows, upstreams_windows

    read = upstreams_windows.read_registry  # type: ignore[attr-defined,unused-ignore]
    return resolver_windows.whole(read, is_assigned) if whole else resolver_windows.split(read, at, zones)


def make(kind: str, name: str) -> plan.Setting:
    """The setting that an entry of the journal means. Raises OSError for one that this version does not know."""
    if kind == "loopback-address":
        return LoopbackAddress(name)
    try:
        if kind == "resolv.conf":
            from vmdns.host.resolv_conf import ResolvConf

            return ResolvConf(name)
        if kind in ("dns-delegate", "host-unit", "dnsmasq-conf", "resolv.conf-of-ours"):
            from vmdns.host import resolver_linux

            return resolver_linux.setting(kind, name)
        if kind in ("resolver-file", "address-daemon", "mac-servers"):
            from vmdns.host import resolver_macos

            return resolver_macos.ServiceServers(name) if kind == "mac-servers" else resolver_macos.setting(kind, name)
        if kind in ("nrpt", "windows-servers"):
            from vmdns.host import nrpt, resolver_windows, upstreams_windows

            read = upstreams_windows.read_registry  # type: ignore[attr-defined,unused-ignore]
            return nrpt.NrptSetting(name, read) if kind == "nrpt" else resolver_windows.InterfaceServers(name, read)
    except AttributeError:
        pass
    raise OSError(f"the journal names {kind} {name}, which this vmdns cannot change on this system")


def apply(ask: ResolverPlan, steps: Sequence[plan.Step], say: Callable[[str], None]) -> None:
    """Does the steps, journaled. The last one waits until vmdns answers where it will be asked. Raises OSError."""
    kept = open_host_journal()
    if not ask.check or not steps:
        plan.apply(steps, kept, HOST_SCOPE, say)
        return
    last = [one for one in steps if one.setting.kind in ("resolv.conf", "mac-servers", "windows-servers")]
    plan.apply([one for one in steps if one not in last], kept, HOST_SCOPE, say)
    if last and not answers(ask.check, ANSWER_SECONDS):
        raise OSError(
            f"no vmdns answers at {ask.check} port 53, so this computer is not sent there; see that `vmdns run` runs "
            "and may have port 53 (vmdns status), then apply again"
        )
    plan.apply(last, kept, HOST_SCOPE, say)


def answers(address: str, patience: float) -> bool:
    """Whether a DNS server there answers for local. as one that owns it, patience: for at most this many seconds."""
    question = encode_query(0x5644, b"\5local\0", _SOA)
    end = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(_ASK_SECONDS)
            try:
                one.connect((address, _PORT))
                one.send(question)
                reply = one.recv(4096)
                # Authoritative, and no error (RFC 1035 section 4.1.1).
                if reply[:2] == question[:2] and reply[2] & 0x84 == 0x84 and not reply[3] & 0x0F:
                    return True
            except OSError:
                pass
        if time.monotonic() > end:
            return False
        time.sleep(_ASK_SECONDS)


def undo_steps() -> tuple[list[plan.Step], list[str]]:
    """What `undo` would do, and what it would leave and why. Raises OSError."""
    return plan.undo_plan(open_host_journal(), HOST_SCOPE, make)


def clean() -> list[str]:
    """Removes rules of ours that no journal has any more, as a vmdns that was deleted leaves them (Windows).

    Returns what was done, or the command that does it where the right is missing. Not run on Windows yet.
    """
    if sys.platform != "win32":
        return []
    from vmdns.host import elevation as elevate
    from vmdns.host import nrpt, upstreams_windows

    kept = [entry.name for entry in open_host_journal().entries(HOST_SCOPE) if entry.kind == "nrpt"]
    rules = nrpt.find_stale_rules(upstreams_windows.read_registry(), kept)
    if rules and elevate.is_elevated():
        nrpt.remove_rules(rules)
        return [f"a rule for {', '.join(rule.spaces)} that an earlier vmdns left is taken away" for rule in rules]
    return [
        f"an earlier vmdns left a rule for {', '.join(rule.spaces)}; as administrator: "
        f"{' '.join(nrpt.removal_command(rule))}"
        for rule in rules
    ]
