"""The worker process of `vmdns demo`: plays scene.py instead of reading VirtualBox and the host's network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vmdns.demo.scene import SceneFacts, next_change, scene_facts
from vmdns.sources.installation import Installation
from vmdns.sources.reader import VirtualBoxInfo, fact_key
from vmdns.sources.worker import WorkerOutput, WorkerSources, main
from vmdns.state.facts import Fact

VERSION = "7.2"


class ScenePlayer:
    """Plays the script, as the reader of VirtualBox (sources/reader.py) and as the host, which it reports itself."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.found = VirtualBoxInfo(VERSION, "simulation", "")
        self._clock = clock
        self._sleep = sleep
        self._begun, self._start = clock(), time.time()
        self._output: WorkerOutput | None = None
        self._was_read = False

    def host(self, output: WorkerOutput) -> ScenePlayer:
        """Returns itself as the host."""
        self._output = output
        return self

    def start(self) -> None:
        """Reports leases, addresses and neighbours for the first time."""
        self._report(self._now())

    def read(self, seconds: float) -> Mapping[str, Fact]:
        """Waits for the next change, and reports the host as well."""
        if self._was_read:
            passed = self._clock() - self._begun
            self._sleep(min(seconds, next_change(passed) - passed))
        self._was_read = True
        now = self._now()
        self._report(now)
        return {fact_key(fact): fact for fact in now.virtualbox}

    def request_look(self, source: str = "") -> None:
        """Confirms a look: everything has been reported."""
        if source and self._output is not None:
            self._output.confirm_look(source)

    def close(self) -> None:
        """Does nothing: no VirtualBox is open."""

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


if __name__ == "__main__":
    player = ScenePlayer()
    nowhere = Installation(Path(), Path())
    main(WorkerSources(lambda environ: nowhere, lambda *options: (player, ""), player.host, lease_files=False))
