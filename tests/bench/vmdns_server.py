"""`vmdns run` with simulated VMs: the whole vmdns, but its worker reads VMs from a script (fleet.py).

    python vmdns_server.py TREE FOLDER [options of run]

TREE is the checkout whose vmdns runs. FOLDER stands for VirtualBox's and for the user's, and has what `fleet` reads.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

TREE, FOLDER, *OPTIONS = sys.argv[1:]


def main() -> int:
    sys.path.insert(0, TREE)
    from vmdns import cli
    from vmdns.daemon import app

    fleet = str(Path(TREE) / "tests/bench/fleet.py")  # of the same checkout: it knows its reader
    app.run = partial(app.run, worker=(sys.executable, fleet, TREE, FOLDER))
    return cli.main(["run", *OPTIONS])


if __name__ == "__main__":
    raise SystemExit(main())
