"""What systemd starts beside a confined `vmdns run`, for each connection to its socket (host/unit.py).

The first line says what is wanted: the options of a worker (sources/worker.py), or `{"wire": {"home", "zones"}}` for
one look at whether VirtualBox's networks are wired (wired.py). Whoever may connect is the user whose VMs these are.
"""

from __future__ import annotations

import json
from typing import Any

from vmdns.serve.turn import long_turns
from vmdns.sources import worker


def main() -> None:
    """Serves the connection that is standard input and output."""
    given, output = worker.streams()
    wanted = json.loads(given.readline())
    if "wire" not in wanted:
        worker.run(given, output, wanted, long_turns)
        return
    from vmdns.host.elevate import is_elevated
    from vmdns.wired import look
    from vmdns.wiring import Wire

    said: dict[str, Any] = {"steps": [], "troubles": []}
    try:
        wire = Wire(wanted["wire"]["home"], tuple(wanted["wire"]["zones"]), may=is_elevated())
        look(wire, said["steps"], said["troubles"])
    except (OSError, RuntimeError) as error:
        said["error"] = str(error)
    output.send(said)


if __name__ == "__main__":
    main()
