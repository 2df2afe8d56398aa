"""A reader (sources/reader.py) of a simulated VirtualBox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vmdns.sources.installation import Installation
from vmdns.sources.reader import VirtualBoxInfo, fact_key
from vmdns.sources.worker import WorkerSources
from vmdns.state.facts import Fact

# Waits for changes for at most that many seconds, and returns the facts that are new or different.
Changes = Callable[[float], Iterable[Fact]]


class SimulatedReader:
    """Reports the given facts first, then what `changes` returns. VMs and networks are never removed."""

    def __init__(self, found: VirtualBoxInfo, facts: Iterable[Fact], changes: Changes) -> None:
        self.found = found
        self.moved = time.monotonic()
        self._facts = {fact_key(fact): fact for fact in facts}
        self._changes = changes

    def look(self) -> Mapping[str, Fact]:
        """All facts now."""
        return self._facts.copy()

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        """Waits for changes, and returns them."""
        self.moved = time.monotonic()
        changed = {fact_key(fact): fact for fact in self._changes(seconds)}
        self._facts.update(changed)
        return dict(changed)

    def request_network_look(self) -> None:
        """Does nothing: only `changes` changes anything."""

    def request_look(self) -> None:
        """Does nothing, for the same reason."""

    def close(self) -> None:
        """Does nothing: no VirtualBox is open."""


def simulate_virtualbox(reader: SimulatedReader) -> WorkerSources:
    """That reader instead of VirtualBox, with the real lease files and network of the host.

    The lease files are in the folder `reader.found.home`.
    """
    home = Path(reader.found.home)
    return WorkerSources(lambda environ: Installation(home, home / "VBoxManage"), lambda *options: (reader, ""))
