"""The process that systemd starts outside the confinement of `vmdns run`, for each connection to its socket.

The first line is the request: the options of a worker (sources/worker.py), or `{"wire": {"home", "zones"}}` for one
check of VirtualBox's DHCP servers (daemon/wire_watch.py). Only the user whose VMs these are may connect.
"""

from __future__ import annotations

import json

from vmdns.sources.worker import open_streams, run


def main() -> None:
    """Serves the connection that is standard input and output."""
    requests, output = open_streams()
    wanted = json.loads(requests.readline())
    if "wire" in wanted:
        from vmdns.daemon.wire_watch import check_networks

        output.send(check_networks(wanted["wire"]["home"], tuple(wanted["wire"]["zones"])))
    else:
        run(requests, output, wanted)


if __name__ == "__main__":
    main()
