"""`vmdns host` and `vmdns hosts`: this computer finds names by its resolver settings, or by lines in its hosts file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vmdns.commands import NOT_RUNNING, CommandError, command_name
from vmdns.dns.message import AUTHORITATIVE, SOA
from vmdns.dns.name import to_wire
from vmdns.host import hosts_block, plan
from vmdns.host.elevation import NO_SUDO, ElevationDenied
from vmdns.host.folders import hosts_path
from vmdns.host.resolver import HOST_SCOPE, SERVER_KINDS, SETTINGS, open_journal, plan_resolver
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress, query_udp

ANSWER_SECONDS = 10.0  # vmdns looks every five seconds whether an address is there
_QUERY_SECONDS = 0.5
_LOCAL = to_wire("local")

Log = Callable[[str], None]
Names = Callable[[], list[dict[str, Any]]]


def command(action: str, whole: bool, status: dict[str, Any] | None, zones: Sequence[str], log: Log) -> dict[str, Any]:
    """The response of `vmdns host`: action is plan, apply or undo. status is that of a vmdns that runs.

    Raises `CommandError`, or OSError.
    """

    def agreed(response: dict[str, Any]) -> bool:
        if action == "apply" and response["steps"] and whole and status is None:
            raise CommandError(
                f"no vmdns runs here, so this computer would ask nobody; start one with: {command_name()} run",
                NOT_RUNNING,
            )
        return action != "plan"

    try:
        wanted = None if action == "undo" else plan_resolver(whole, listen_address(status), zones)
        return plan.change(wanted, open_journal(), HOST_SCOPE, SETTINGS, agreed, log, _wait_for_server)
    except ElevationDenied as error:
        by_hand = f"{NO_SUDO}; the command lines that `vmdns host` shows do the same by hand"
        raise CommandError(str(error) if sys.platform == "win32" else by_hand) from None


def listen_address(status: Mapping[str, Any] | None) -> ListenAddress:
    """Where vmdns is to be asked, by its status; 127.0.0.1 port 53 where none runs. Raises `CommandError`."""
    if status is None:
        return ListenAddress()
    listening = [one for one in status["listeners"] if one["state"] == "listening"]
    if not listening:
        raise CommandError("vmdns listens nowhere now; see vmdns status")
    here = [ListenAddress(one["address"], one["port"]) for one in listening]
    return min(here, key=lambda at: (at.address != "127.0.0.1", ":" in at.address, at.port != 53))


def _wait_for_server(step: plan.Step) -> None:
    """Waits until vmdns answers where a step sends all queries of this computer. Raises OSError if it does not."""
    if step.setting.kind in SERVER_KINDS and not answers(RESOLVER_ADDRESS, ANSWER_SECONDS):
        raise OSError(
            f"no vmdns answers at {RESOLVER_ADDRESS} port 53, so this computer is not sent there; see that `vmdns run` "
            "runs and may have port 53 (vmdns status), then apply again"
        )


def answers(address: str, patience: float) -> bool:
    """Whether a DNS server there answers for local. as one that owns it, patience: for at most this many seconds."""
    end = time.monotonic() + patience
    while True:
        response = query_udp(address, _LOCAL, SOA, _QUERY_SECONDS)
        if response and response[2] << 8 & AUTHORITATIVE and not response[3] & 0x0F:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_QUERY_SECONDS)


def hosts_command(action: str, names: Names) -> dict[str, Any]:
    """The response of `vmdns hosts`: action is plan, apply or undo; names gives the server's names. Raises OSError."""
    file = hosts_path()
    wanted = None if action == "undo" else hosts_block.lines(names())
    before = hosts_block.read(file)
    if action != "plan" and before != wanted:
        writer = hosts_block.open_writer(file, keep=True)
        writer.ask(wanted)
        writer.close()
    return {"file": str(file), "before": before, "block": wanted, "done": action != "plan"}


def keep_hosts(changes: Iterable[object], names: Names, log: Log) -> None:
    """Writes the block at each change until Ctrl-C. Raises OSError, and what `changes` raises at its end."""
    file = hosts_path()
    names()  # without a server there is nothing to write
    writer = hosts_block.open_writer(file, keep=False)
    written: list[str] | None = None
    try:
        for _ in changes:
            wanted = hosts_block.lines(names())
            if wanted != written:
                writer.ask(wanted)
                written = wanted
                log(f"{len(wanted)} {'line' if len(wanted) == 1 else 'lines'} of names in {file}")
    finally:
        writer.close()
        if written is not None:
            log(f"the names are taken out of {file}")
