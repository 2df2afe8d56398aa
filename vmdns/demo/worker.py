"""The worker process of `vmdns demo`: plays scene.py instead of reading VirtualBox and the host's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from vmdns.demo.reader import SimulatedReader, simulate_virtualbox
from vmdns.demo.scene import SceneFacts, next_change, scene_facts
from vmdns.sources.reader import VirtualBoxInfo, fact_key
from vmdns.sources.worker import main
from vmdns.sources.worker_protocol import WorkerOutput
from vmdns.state.facts import Fact

VERSION = "7.2"


class ScenePlayer:
    """Plays the script: reports the host's facts to `output`, and VirtualBox's facts through a reader."""

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

    def host(self, output: WorkerOutput) -> ScenePlayer:
        """Returns itself as the host watcher."""
        self._output = output
        return self

    def start(self) -> None:
        """Reports leases, addresses and neighbours for the first time."""
        self._report(self._now())

    def look(self, source: str) -> None:
        """Confirms a look: everything has been reported."""
        assert self._output is not None
        self._output.confirm_look(source)

    def _now(self) -> SceneFacts:
        return scene_facts(self._clock() - self._begun, self._start)

    def _report(self, now: SceneFacts) -> None:
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
    player = ScenePlayer()
    main(sources=simulate_virtualbox(player.reader)._replace(host=player.host, lease_files=False))
