"""`vmdns run` with simulated VMs: the whole vmdns, but its worker reads VMs from a script (fleet.py).

    python vmdns_server.py TREE FOLDER [options of run]
    python vmdns_server.py --idle FOLDER

TREE is the checkout whose vmdns runs. FOLDER stands for VirtualBox's and for the user's, and has what `fleet` reads.
With VMDNS_BENCH_BEAT set, FOLDER/pause has the longest time in ms that the event loop stood still; --idle measures that
of a loop that does nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

BEAT_SECONDS = 0.0005
TREE, FOLDER, *OPTIONS = sys.argv[1:]


class Beat:
    """Wakes up in the loop every half millisecond, and writes its longest delay; starts again when the file is gone."""

    def __init__(self) -> None:
        self._pause = Path(FOLDER) / "pause"
        self._longest = 0.0
        self._last = time.perf_counter()
        asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        delay = time.perf_counter() - self._last - BEAT_SECONDS
        removed = not self._pause.exists()
        if delay > self._longest or removed:
            self._longest = 0.0 if removed else delay
            self._pause.write_text(f"{self._longest * 1000:.3f}")
        self._last = time.perf_counter()
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._wake)


async def run_idle() -> None:
    Beat()
    await asyncio.Event().wait()


def main() -> int:
    sys.path.insert(0, TREE)
    from vmdns import cli
    from vmdns.daemon import app

    fleet = str(Path(TREE) / "tests/bench/fleet.py")  # of the same checkout: it knows its reader
    app.run = partial(app.run, worker=(sys.executable, fleet, TREE, FOLDER))
    if os.environ.get("VMDNS_BENCH_BEAT"):
        serve = app.App.run

        async def run(one: Any, stop: asyncio.Event) -> int:
            Beat()
            return await serve(one, stop)

        app.App.run = run  # type: ignore[method-assign, assignment]
    return cli.main(["run", *OPTIONS])


if __name__ == "__main__":
    if TREE == "--idle":
        asyncio.run(run_idle())
    raise SystemExit(main())
