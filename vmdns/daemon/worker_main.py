"""The worker process (sources/worker.py), as it is started: those that answer go before what it does much of."""

from __future__ import annotations

from vmdns.server.scheduling_linux import long_turns
from vmdns.sources.worker import main

if __name__ == "__main__":
    main(long_turns)
