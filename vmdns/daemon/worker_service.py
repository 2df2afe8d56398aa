"""What systemd starts beside a confined `vmdns run`, for each connection to its socket (host/systemd_unit.py).

The first line says what is wanted: the options of a worker (sources/worker.py), or `{"wire": {"home", "zones"}}` for
one look at whether VirtualBox's networks are wired (daemon/keep_wired.py). Only the user whose VMs these are may
connect.
"""

from __future__ import annotations

import json
from typing import Any

from vmdns.sources import worker
from vmdns.sources.worker_protocol import open_streams


def main() -> None:
    """Serves the connection that is standard input and output."""
    requests, output = open_streams()
    wanted = json.loads(requests.readline())
    if "wire" not in wanted:
        worker.run(requests, output, wanted)
        return
    from vmdns.commands.wire_networks import Wire
    from vmdns.daemon.keep_wired import look
    from vmdns.host.elevation import is_elevated

    said: dict[str, Any] = {"steps": [], "troubles": []}
    try:
        wire = Wire(wanted["wire"]["home"], tuple(wanted["wire"]["zones"]), may=is_elevated())
        look(wire, said["steps"], said["troubles"])
    except (OSError, RuntimeError) as error:
        said["error"] = str(error)
    output.send(said)


if __name__ == "__main__":
    main()
