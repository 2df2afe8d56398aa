"""Polls the host's addresses and neighbours on macOS and Windows.

On Windows, VirtualBox names an adapter by its description. getmac maps names of interfaces to descriptions, and runs
when the set of interfaces changed. Never run on macOS or Windows.
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
from vmdns.sources import neighbours
from vmdns.sources.worker_protocol import Report
from vmdns.state.external_data import decode_console

ADDRESS_SECONDS = 2.0
NEIGHBOUR_SECONDS = 4.0


class PollWatcher:
    """Like `NetlinkWatcher`: reports the sources `addresses` and `neighbours` from its own thread."""

    def __init__(self, report: Report, trouble: Callable[[str, str], None], looked: Callable[[str], None]) -> None:
        self._trouble = trouble
        self._looked = looked
        self._report = report
        self._looks = {"addresses": self._report_addresses, "neighbours": self._report_neighbours}
        self._failing: set[str] = set()
        self._neighbours = neighbours.NeighbourHistory()
        self._interfaces: set[str] = set()
        self._aliases: dict[str, str] = {}
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Starts the thread."""
        threading.Thread(target=self._run, name="hostpoll", daemon=True).start()

    def look(self, source: str) -> None:
        """Reads this source now. Called from another thread."""
        self._requests.put(source)

    def _run(self) -> None:
        pauses = {"addresses": ADDRESS_SECONDS, "neighbours": NEIGHBOUR_SECONDS}
        due = dict.fromkeys(pauses, 0.0)
        requested: set[str] = set()
        while True:
            for source, at in list(due.items()):
                if source in requested or at <= time.monotonic():
                    self._look(source)
                    due[source] = time.monotonic() + pauses[source]
            for source in requested:
                self._looked(source)
            requested = set()
            with suppress(queue.Empty):
                requested.add(self._requests.get(timeout=max(0.0, min(due.values()) - time.monotonic())))
                while True:
                    requested.add(self._requests.get_nowait())

    def _look(self, source: str) -> None:
        try:
            self._looks[source]()
        except Exception as error:
            if source not in self._failing:
                self._failing.add(source)
                self._trouble(source, f"the host's {source} cannot be read ({type(error).__name__}: {error})")
            return
        if source in self._failing:
            self._failing.remove(source)
            self._trouble(source, "")

    def _report_addresses(self) -> None:
        import psutil

        found = psutil.net_if_addrs()
        if sys.platform == "win32" and found.keys() != self._interfaces:
            self._aliases = parse_aliases(_getmac())
            self._interfaces = set(found)
        entries = addresses.parse_psutil(found, psutil.net_if_stats())
        self._report("addresses", addresses.address_facts(entries, self._aliases))

    def _report_neighbours(self) -> None:
        self._report("neighbours", self._neighbours.facts(neighbours.read_neighbours(), time.time()))


def _getmac() -> Iterable[str]:
    """Lines of getmac; none where it fails: then interfaces are matched by address only."""
    try:
        done = subprocess.run(
            ["getmac", "/v", "/fo", "csv", "/nh"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=neighbours.TIMEOUT_SECONDS,
            check=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return decode_console(done.stdout, sys.platform).splitlines()


def parse_aliases(lines: Iterable[str]) -> dict[str, str]:
    """`getmac /v /fo csv /nh`: connection name -> description, which is VirtualBox's name of the adapter."""
    return {row[0]: row[1] for row in csv.reader(lines) if len(row) >= 3 and row[0]}
