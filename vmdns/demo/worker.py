"""The worker process of `vmdns demo`: the script of scene.py in place of VirtualBox and of this computer's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vmdns.demo.reader import SimulatedReader, simulated
from vmdns.demo.scene import Moment, moment, next_change
from vmdns.sources.reader import VirtualBoxInfo, fact_key
from vmdns.sources.worker import main
from vmdns.sources.worker_protocol import WorkerOutput
from vmdns.state.facts import Fact

VERSION = "7.2"


class Player:
    """Reports the script as time passes: the host's part of it to `output`, VirtualBox's part as a reader does."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._begun, self._start = clock(), time.time()
        self._output: WorkerOutput | None = None
        now = self._now()
        self._known: dict[str, Fact] = {fact_key(fact): fact for fact in now.virtualbox}
        self.reader = SimulatedReader(VirtualBoxInfo(VERSION, "simulation", ""), now.virtualbox, self._changes)

    def host(self, output: WorkerOutput) -> Player:
        """Itself as the watcher of a host."""
        self._output = output
        return self

    def start(self) -> None:
        """Reports leases, addresses and neighbours for the first time."""
        self._report(self._now())

    def look(self, source: str) -> None:
        """Confirms a look: what there is has been reported."""
        assert self._output is not None
        self._output.confirm_look(source)

    def _now(self) -> Moment:
        return moment(self._clock() - self._begun, self._start)

    def _report(self, now: Moment) -> None:
        assert self._output is not None
        sources: dict[str, tuple[Fact, ...]] = {
            "leases": now.leases,
            "addresses": now.addresses,
            "neighbours": now.neighbours,
        }
        for source, facts in sources.items():
            self._output.report(source, {repr(fact): fact for fact in facts})

    def _changes(self, seconds: float) -> Iterator[Fact]:
        passed = self._clock() - self._begun
        self._sleep(min(seconds, next_change(passed) - passed))
        now = self._now()
        self._report(now)
        for fact in now.virtualbox:
            if self._known.get(fact_key(fact)) != fact:
                self._known[fact_key(fact)] = fact
                yield fact


if __name__ == "__main__":
    player = Player()
    main(sources=simulated(player.reader)._replace(host=player.host, lease_files=False))
