"""`vmdns`, and `python -m vmdns`."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs one command. Ctrl-C while its modules are imported ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vmdns.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
