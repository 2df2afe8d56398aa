"""`vmdns host` and `vmdns hosts`: this computer finds names by its resolver settings, or by lines in its hosts file."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vmdns.commands import NOT_RUNNING, CommandError, command_name
from vmdns.dns.query import encode_query
from vmdns.host import hosts_block, plan
from vmdns.host.elevation import ElevationDenied, is_elevated
from vmdns.host.folders import hosts_path
from vmdns.host.journal import open_host_journal
from vmdns.host.loopback_address import LoopbackAddress, is_assigned
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.upstreams import HOST_SCOPE

ANSWER_SECONDS = 10.0  # vmdns looks every five seconds whether an address is there
_QUERY_SECONDS = 0.5
_SOA = 6
_PORT = 53

Log = Callable[[str], None]
Names = Callable[[], list[dict[str, Any]]]


def command(action: str, whole: bool, status: dict[str, Any] | None, zones: Sequence[str], log: Log) -> dict[str, Any]:
    """The response of `vmdns host`: action is plan, apply or undo. status is that of a vmdns that runs.

    Raises `CommandError`, or OSError.
    """
    done = action != "plan"
    try:
        if action == "undo":
            steps, left = plan.undo_plan(open_host_journal(), HOST_SCOPE, make)
            shown = [one.as_json() for one in steps]
            plan.undo(open_host_journal(), HOST_SCOPE, make, log)
            return {"steps": shown, "left": left, "notes": [], "done": done}
        found = look(whole, listen_address(status), zones)
        steps = plan.plan(found.wanted)
        shown = [one.as_json() for one in steps]
        if done and steps:
            if found.check and status is None:
                raise CommandError(
                    f"no vmdns runs here, so this computer would ask nobody; start one with: {command_name()} run",
                    NOT_RUNNING,
                )
            apply(found.check, steps, log)
        return {"steps": shown, "left": [], "notes": list(found.notes) if steps else [], "done": done}
    except ElevationDenied:
        raise CommandError(
            "this needs root, and there is no sudo or no terminal to ask for it; the command lines that "
            "`vmdns host` shows do the same by hand"
        ) from None


def listen_address(status: Mapping[str, Any] | None) -> ListenAddress:
    """Where vmdns is to be asked, by its status; 127.0.0.1 port 53 where none runs. Raises `CommandError`."""
    if status is None:
        return ListenAddress()
    listening = [one for one in status["listeners"] if one["state"] == "listening"]
    if not listening:
        raise CommandError("vmdns listens nowhere now; see vmdns status")
    here = [ListenAddress(one["address"], one["port"]) for one in listening]
    return min(here, key=lambda at: (at.address != "127.0.0.1", ":" in at.address, at.port != 53))


def look(whole: bool, at: ListenAddress, zones: Sequence[str]) -> ResolverPlan:
    """What is to be set on this machine. Raises `CommandError`, or OSError where it cannot be looked at."""
    found: ResolverPlan | Refusal
    if sys.platform == "win32":
        from vmdns.host import resolver_windows, upstreams_windows

        read = upstreams_windows.read_registry
        found = resolver_windows.whole(read, is_assigned) if whole else resolver_windows.split(read, at, zones)
    elif sys.platform == "darwin":
        from vmdns.host import resolver_macos

        found = resolver_macos.whole(resolver_macos.services()) if whole else resolver_macos.split(at, zones)
    else:
        from vmdns.host import resolver_linux

        found = (resolver_linux.whole if whole else resolver_linux.split)(resolver_linux.look(), at, zones)
    if isinstance(found, Refusal):
        raise CommandError(found.text)
    return found


def make(kind: str, name: str) -> plan.Setting:
    """The setting that an entry of the journal means. Raises OSError for one that this version does not know."""
    if kind == "loopback-address":
        return LoopbackAddress(name)
    if kind == "resolv.conf":
        from vmdns.host.resolv_conf import ResolvConf

        return ResolvConf(name)
    if kind in ("dns-delegate", "host-unit", "dnsmasq-conf", "resolv.conf-of-ours"):
        from vmdns.host import resolver_linux

        return resolver_linux.setting(kind, name)
    if kind in ("resolver-file", "address-daemon", "mac-servers"):
        from vmdns.host import resolver_macos

        return resolver_macos.ServiceServers(name) if kind == "mac-servers" else resolver_macos.setting(kind, name)
    if sys.platform == "win32" and kind in ("nrpt", "windows-servers"):
        from vmdns.host import nrpt, resolver_windows, upstreams_windows

        read = upstreams_windows.read_registry
        return nrpt.NrptSetting(name, read) if kind == "nrpt" else resolver_windows.InterfaceServers(name, read)
    raise OSError(f"the journal names {kind} {name}, which this vmdns cannot change on this system")


def apply(check: str, steps: Sequence[plan.Step], log: Log) -> None:
    """Does the steps, journaled. check: where this computer will ask; the last step waits for an answer from there.
    Raises OSError."""
    journal = open_host_journal()
    last = [one for one in steps if check and one.setting.kind in ("resolv.conf", "mac-servers", "windows-servers")]
    plan.apply([one for one in steps if one not in last], journal, HOST_SCOPE, log)
    if last and not answers(check, ANSWER_SECONDS):
        raise OSError(
            f"no vmdns answers at {check} port 53, so this computer is not sent there; see that `vmdns run` runs "
            "and may have port 53 (vmdns status), then apply again"
        )
    plan.apply(last, journal, HOST_SCOPE, log)


def answers(address: str, patience: float) -> bool:
    """Whether a DNS server there answers for local. as one that owns it, patience: for at most this many seconds."""
    question = encode_query(0x5644, b"\5local\0", _SOA)
    end = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(_QUERY_SECONDS)
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
        time.sleep(_QUERY_SECONDS)


def clean() -> list[str]:
    """Removes rules of ours that no journal has any more, as a vmdns that was deleted leaves them (Windows).

    Returns what was done, or the command that does it where the right is missing. Not run on Windows yet.
    """
    if sys.platform != "win32":
        return []
    from vmdns.host import nrpt, upstreams_windows

    kept = [entry.name for entry in open_host_journal().entries(HOST_SCOPE) if entry.kind == "nrpt"]
    rules = nrpt.find_stale_rules(upstreams_windows.read_registry(), kept)
    if rules and is_elevated():
        nrpt.remove_rules(rules)
        return [f"a rule for {', '.join(rule.spaces)} that an earlier vmdns left is taken away" for rule in rules]
    return [
        f"an earlier vmdns left a rule for {', '.join(rule.spaces)}; as administrator: "
        f"{' '.join(nrpt.removal_command(rule))}"
        for rule in rules
    ]


def hosts_command(action: str, names: Names) -> dict[str, Any]:
    """The response of `vmdns hosts`: action is plan, apply or undo; names gives the server's names. Raises OSError."""
    file = hosts_path()
    wanted = None if action == "undo" else hosts_block.lines(names())
    before = hosts_block.read(file)
    if action != "plan" and before != wanted:
        writer = hosts_block.HostsWriter(file, once=True)
        writer.write(wanted)
        writer.close()
    return {"file": str(file), "before": before, "block": wanted, "done": action != "plan"}


def keep_hosts(changes: Iterable[object], names: Names, log: Log) -> None:
    """Writes the block at each change until Ctrl-C. Raises OSError, and what `changes` raises at its end."""
    file = hosts_path()
    names()  # without a server there is nothing to write
    writer = hosts_block.HostsWriter(file, once=False)
    written: list[str] | None = None
    try:
        for _ in changes:
            wanted = hosts_block.lines(names())
            if wanted != written:
                writer.write(wanted)
                written = wanted
                log(f"{len(wanted)} {'line' if len(wanted) == 1 else 'lines'} of names in {file}")
    finally:
        writer.close()
        if written is not None:
            log(f"the names are taken out of {file}")
