"""`vmdns run` with simulated VMs: all of vmdns is in force, but its worker reads VMs from a script (fleet.py).

    python vmdns_server.py TREE FOLDER [options of run]

TREE is the checkout whose vmdns runs. FOLDER stands for VirtualBox's and for the user's, and holds what `fleet`
reads. With VMDNS_BENCH_BEAT set, the longest time that the event loop stood still is kept in FOLDER/pause, in ms.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

TREE, FOLDER, *OPTIONS = sys.argv[1:]
sys.path.insert(0, TREE)
WORKER = (
    sys.executable,
    str(Path(TREE) / "tests/bench/fleet.py"),
    TREE,
    FOLDER,
)  # of the same checkout: it knows its reader


def main() -> int:
    from vmdns import cli
    from vmdns.daemon import app

    app.run = partial(app.run, worker=WORKER)
    if os.environ.get("VMDNS_BENCH_BEAT"):
        from beat import Beat

        serve = app.App.run

        async def run(one: Any, stop: asyncio.Event) -> int:
            Beat(Path(FOLDER) / "pause")
            return await serve(one, stop)

        app.App.run = run  # type: ignore[method-assign]
    return cli.main(["run", *OPTIONS])


if __name__ == "__main__":
    raise SystemExit(main())
