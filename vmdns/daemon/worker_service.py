"""The process that systemd starts outside the confinement of `vmdns run`, for each connection to its socket.

The first line is the request: the options of a worker (sources/worker.py), or `{"wire": {"home", "zones"}}` for
one check of VirtualBox's DHCP servers (daemon/wire_watch.py). Only the user whose VMs these are may
connect.
"""

from __future__ import annotations

import json
from typing import Any

from vmdns.sources.worker import open_streams, run


def main() -> None:
    """Serves the connection that is standard input and output."""
    requests, output = open_streams()
    wanted = json.loads(requests.readline())
    if "wire" not in wanted:
        run(requests, output, wanted)
        return
    from vmdns.commands import CommandError
    from vmdns.commands.wire import Wire
    from vmdns.daemon.wire_watch import apply_once
    from vmdns.host.elevation import is_elevated

    response: dict[str, Any] = {"steps": [], "troubles": []}
    try:
        wire = Wire(wanted["wire"]["home"], tuple(wanted["wire"]["zones"]), may=is_elevated())
        apply_once(wire, response["steps"], response["troubles"])
    except (OSError, RuntimeError, CommandError) as error:
        response["error"] = str(error)
    output.send(response)


if __name__ == "__main__":
    main()
