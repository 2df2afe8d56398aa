"""`vmdns run` with a played VirtualBox: all of vmdns is in force, but its worker reads VMs from a script.

    python vmdns_server.py TREE FOLDER [options of run]

TREE is the checkout whose vmdns runs. FOLDER stands for VirtualBox's and for the user's, and holds what `played_worker`
reads. With VMDNS_BENCH_BEAT set, the longest time that the event loop stood still is kept in FOLDER/pause, in ms.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TREE, FOLDER, *OPTIONS = sys.argv[1:]
sys.path.insert(0, TREE)
WORKER = Path(__file__).resolve().parent / "played_worker.py"


class Played(subprocess.Popen):  # type: ignore[type-arg]
    """Any process; the worker is the played one."""

    def __init__(self, command: Any, *more: Any, **how: Any) -> None:
        if {"vmdns.worker", "vmdns.sources.worker"} & set(command):  # the second one: before
            command = [sys.executable, str(WORKER), TREE, FOLDER]
        super().__init__(command, *more, **how)


def main() -> int:
    from vmdns import cli
    from vmdns.sources import supervise

    subprocess.Popen = Played  # type: ignore[misc]
    supervise.find = lambda *_: Path(FOLDER)  # type: ignore[assignment]
    if os.environ.get("VMDNS_BENCH_BEAT"):
        from beat import Beat

        from vmdns.app import App

        serve = App.run

        async def run(app: Any, stop: asyncio.Event) -> int:
            Beat(Path(FOLDER) / "pause")
            return await serve(app, stop)

        App.run = run  # type: ignore[method-assign]
    return cli.main(["run", *OPTIONS])


if __name__ == "__main__":
    raise SystemExit(main())
