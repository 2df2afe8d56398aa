"""The host's addresses and neighbours where the system tells no changes to us: looked up every few seconds.

On Windows VirtualBox calls an adapter by its description; getmac(1) pairs those with the names that the system uses,
and is asked when there are other interfaces than before. Neither macOS nor Windows has been run.
"""

from __future__ import annotations

import csv
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from vmdns.sources import host_addresses as addresses
from vmdns.sources import neighbour_commands
from vmdns.sources import neighbour_table as neighbours
from vmdns.sources.worker_protocol import Report
from vmdns.state.program_output import decode_console

ADDRESS_SECONDS = 2.0
NEIGHBOUR_SECONDS = 4.0


class PollWatcher:
    """As `NetlinkWatcher`: looks from a thread of its own, and reports the sources `addresses` and `neighbours`."""

    def __init__(self, report: Report, trouble: Callable[[str, str], None], looked: Callable[[str], None]) -> None:
        self._trouble = trouble
        self._looked = looked
        self._report = report
        self._looks = {"addresses": self._look_at_addresses, "neighbours": self._look_at_neighbours}
        self._failing: set[str] = set()
        self._neighbours = neighbours.Neighbours()
        self._interfaces: set[str] = set()
        self._aliases: dict[str, str] = {}
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Begins to look, and reports what is there."""
        threading.Thread(target=self._run, name="hostpoll", daemon=True).start()

    def look(self, source: str) -> None:
        """Called from another thread: look at this source at once."""
        self._asked.put(source)

    def _run(self) -> None:
        pauses = {"addresses": ADDRESS_SECONDS, "neighbours": NEIGHBOUR_SECONDS}
        due = dict.fromkeys(pauses, 0.0)
        asked: set[str] = set()
        while True:
            for source, at in list(due.items()):
                if source in asked or at <= time.monotonic():
                    self._look(source)
                    due[source] = time.monotonic() + pauses[source]
            for source in asked:
                self._looked(source)
            asked = set()
            with suppress(queue.Empty):
                asked.add(self._asked.get(timeout=max(0.0, min(due.values()) - time.monotonic())))
                while True:
                    asked.add(self._asked.get_nowait())

    def _look(self, source: str) -> None:
        try:
            self._looks[source]()
        except Exception as error:
            if source not in self._failing:
                self._failing.add(source)
                self._trouble(source, f"the host's {source} cannot be looked up ({type(error).__name__}: {error})")
            return
        if source in self._failing:
            self._failing.remove(source)
            self._trouble(source, "")

    def _look_at_addresses(self) -> None:
        import psutil

        found = psutil.net_if_addrs()
        if sys.platform == "win32" and found.keys() != self._interfaces:
            self._aliases = aliases(_getmac())
            self._interfaces = set(found)
        entries = addresses.from_psutil(found, psutil.net_if_stats())
        self._report("addresses", addresses.facts(entries, self._aliases))

    def _look_at_neighbours(self) -> None:
        self._report("neighbours", self._neighbours.facts(neighbour_commands.read(), time.time()))


def _getmac() -> Iterable[str]:
    """Empty where it fails: then interfaces are known by their addresses alone."""
    try:
        done = subprocess.run(
            ["getmac", "/v", "/fo", "csv", "/nh"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=neighbour_commands.TIMEOUT_SECONDS,
            check=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return decode_console(done.stdout, sys.platform).splitlines()


def aliases(lines: Iterable[str]) -> dict[str, str]:
    """`getmac /v /fo csv /nh`: connection name -> description, which is VirtualBox's name of the adapter."""
    return {row[0]: row[1] for row in csv.reader(lines) if len(row) >= 3 and row[0]}
