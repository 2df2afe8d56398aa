"""What a running vmdns logs: changes and problems of VMs, withheld answers, and that it is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vmdns.config import Config
from vmdns.control import report
from vmdns.daemon.log_limit import LogLimit
from vmdns.dns.escape import escape_text
from vmdns.server.listeners import Listener
from vmdns.state.findings import domain_to_allow
from vmdns.state.guests import VmChange

FIRST_LOOK_SECONDS = 10.0  # after that, names that are not known count as not there


class Reports:
    """Logs lines that guests and peers can cause, at most ten a minute for each VM or problem."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._limit = LogLimit()
        self._problems: tuple[str, ...] = ()

    def report_change(self, change: VmChange, zones: tuple[str, ...], now: float) -> dict[str, object]:
        """Logs that a VM answers differently. Returns it as `vmdns names --watch` shows it."""
        value = report.change(change, zones, now)
        self._log_limited(f"VM {value['vm']!r}", report.change_line(value), now)
        return value

    def report_problems(self, problems: tuple[str, ...], now: float) -> None:
        """Logs the problems that are new since the last call."""
        known, self._problems = frozenset(self._problems), problems
        for text in problems:
            if text not in known:
                self._log_limited(text.partition(": ")[0], f"! {text}", now)

    def report_withheld(self, name: str) -> None:
        """Logs that an answer for this name was withheld by the rebinding guard, with the remedy."""
        line = (
            f"! {escape_text(name)}: an answer from outside had a private address and was withheld (DNS rebinding); if "
            f'the name is yours, write in vmdns.toml: private_domains = ["{escape_text(domain_to_allow(name))}"]'
        )
        self._log_limited("answers withheld", line, time.time())

    def _log_limited(self, key: str, line: str, now: float) -> None:
        for one in self._limit.lines(key, line, now):
            self._log(one)


async def wait_for_first_look(over: asyncio.Event, log: Callable[[str], None]) -> None:
    """Ends once VirtualBox was looked at, or after 11 s, and logs that it takes long."""
    for seconds, text in (
        (1.0, "looking at VirtualBox and its VMs"),
        (FIRST_LOOK_SECONDS, "VirtualBox is still being looked at; its names follow"),
    ):
        try:
            async with asyncio.timeout(seconds):
                await over.wait()
            return
        except TimeoutError:
            log(text)


def ready_lines(zones: Sequence[str], listeners: Iterable[Listener], simulation: bool) -> list[str]:
    """The line that says where names are answered; in a simulation also what to try."""
    by_port: dict[int, list[str]] = {}
    for one in listeners:
        by_port.setdefault(one.port, []).append(one.address)
    where = ", ".join(f"{', '.join(addresses)} port {port}" for port, addresses in by_port.items())
    prefix = "this is a simulation; " if simulation else ""
    lines = [f"ready: {prefix}names in {' and '.join(zones)} are answered at {where}"]
    if simulation:
        from vmdns.commands.demo import guide

        lines += guide(zones[0], [(one.address, one.port) for one in listeners])
    return lines


async def report_other_user(
    config: Config, found: dict[str, str], has_machines: bool, log: Callable[[str], None]
) -> None:
    """Logs which other user has VMs where this one has none, as root under sudo. found: the VirtualBox that is read."""
    if config.vbox_home or not found["version"] or has_machines:
        return
    from vmdns.host.folders import describe_other_users

    if text := await asyncio.to_thread(describe_other_users, Path(found["home"])):
        log(text)


async def report_leftovers(log: Callable[[str], None]) -> None:
    """Logs or removes what an earlier vmdns left in the system's settings. Not run on Windows yet."""
    from vmdns.host.resolver import remove_leftovers

    try:
        for line in await asyncio.to_thread(remove_leftovers):
            log(line)
    except OSError as error:
        log(f"whether an earlier vmdns left settings cannot be found out: {error}")
